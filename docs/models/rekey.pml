/* The rekey of an established session, for Spin: which epochs are agreed, seal, and are received.
   After shadowmesh/session/rekey.py and shadowmesh/core/session.py; docs/protocol.md, section 5.1.

   Signatures and keys are not here (rekey.pv), only when they are made and dropped. Control messages travel on
   a stream: in order, none lost, any time under way. Packets may be lost, come late, in any order and often: of
   each direction only the epochs are kept of which packets are under way, for ever. Time goes in ticks of 60 s and
   is the same on both sides; each side acts when its timers are due, before the next tick. A session whose keys
   expire, or that is lost for any other reason at any time, is followed by a new one, in which all begins anew.

   Assertions, at every step: at most two epochs are received; no epoch is installed twice or sealed with after a
   later one; nothing is sealed with expired keys; what one side seals the other can open; no side refuses what an
   honest one sends. A deadlock is a state that is not the last and that nothing leads out of. The claim `converge` is for TIMELY: messages and
   at least one packet of each epoch arrive before the next tick. */

#define LAST 3          /* epochs 0 to LAST */
#define REKEY_AFTER 2   /* ticks: 120 s */
#define LIFETIME 5      /* ticks: 300 s */
#define OLD_LANES 1     /* ticks: 10 s and more */
#define FOREVER 255

mtype = { ASK, OFFER, ANSWER };
chan to_r = [3] of { mtype, byte };
chan to_i = [3] of { mtype, byte };

typedef Side {
  byte epoch;             /* the newest that is agreed */
  byte send;              /* the one that seals */
  byte age;               /* ticks since that was agreed */
  bool pending;           /* the newest is agreed and does not seal yet */
  byte newest_age;        /* ticks since the newest was agreed */
  bool busy;              /* initiator: an OFFER is unanswered; responder: has asked */
  bool receives[LAST + 1];
  byte left[LAST + 1];    /* ticks until it is removed */
  bool installed[LAST + 1];
};
Side i, r;
bool way_to_r[LAST + 1], way_to_i[LAST + 1];
byte k, e, count;         /* scratch, used inside atomic steps only */
bool lost_once;

inline check(side) {
  count = 0; k = 0;
  do
  :: k <= LAST -> count = count + (side.receives[k] -> 1 : 0); k++
  :: else -> break
  od;
  assert(count <= 2);
  k = 0
}

inline install(side, n) {
  k = 0;
  do
  :: k <= LAST ->
     if
#ifndef MUTANT_KEEPS_ALL
     :: side.receives[k] && k != side.epoch -> side.receives[k] = false; side.left[k] = 0
#endif
#ifdef MUTANT_DROPS_OLD_AT_ONCE
     :: side.receives[k] && k == side.epoch -> side.receives[k] = false; side.left[k] = 0
#else
     :: side.receives[k] && k == side.epoch -> side.left[k] = LIFETIME
#endif
     :: else
     fi;
     k++
  :: else -> break
  od;
  assert(!side.installed[n]);
  side.installed[n] = true;
  side.receives[n] = true;
  side.left[n] = FOREVER;
  side.epoch = n;
  side.newest_age = 0;
  check(side)
}

inline adopt(side) {
  if
  :: side.pending ->
     assert(side.epoch > side.send);
     side.send = side.epoch; side.age = side.newest_age; side.pending = false
  :: else
  fi
}

inline heard(side, n) {     /* a packet of epoch n was opened */
  if
  :: n == side.epoch ->
     k = 0;
     do
     :: k <= LAST ->
        if
        :: k != n && side.receives[k] && side.left[k] > OLD_LANES -> side.left[k] = OLD_LANES
        :: else
        fi;
        k++
     :: else -> break
     od;
     k = 0;
     adopt(side)
  :: else
  fi
}

inline age_of(side) {
  if :: side.age < LIFETIME -> side.age++ :: else fi;
  if :: side.newest_age < LIFETIME -> side.newest_age++ :: else fi;
  k = 0;
  do
  :: k <= LAST ->
     if
     :: side.receives[k] && side.left[k] != FOREVER ->
        side.left[k]--;
        if :: side.left[k] == 0 -> side.receives[k] = false :: else fi
     :: else
     fi;
     k++
  :: else -> break
  od;
  k = 0
}

inline begin(side) {
  k = 0;
  do
  :: k <= LAST -> side.receives[k] = false; side.left[k] = 0; side.installed[k] = false; k++
  :: else -> break
  od;
  k = 0;
  side.epoch = 0; side.send = 0; side.age = 0; side.newest_age = 0; side.pending = false; side.busy = false;
  side.receives[0] = true; side.left[0] = FOREVER; side.installed[0] = true
}

inline new_session() {
  begin(i); begin(r);
  do :: to_r?_, _ :: empty(to_r) -> break od;
  do :: to_i?_, _ :: empty(to_i) -> break od;
  do
  :: k <= LAST -> way_to_r[k] = false; way_to_i[k] = false; k++
  :: else -> break
  od;
  k = 0
}

#ifdef MUTANT_SEALS_EXPIRED
#define FRESH(side) true
#else
#define FRESH(side) (side.age < LIFETIME)
#endif
#define CAN_OFFER (i.epoch < LAST && !i.busy && i.newest_age >= REKEY_AFTER)
#define CAN_ASK (r.epoch < LAST && !r.busy && r.newest_age >= REKEY_AFTER && len(to_i) < 3)

inline seal(side, other) {
  assert(side.age < LIFETIME);
  assert(other.receives[side.send])
}

proctype Initiator() {
  do
  :: atomic { CAN_OFFER -> i.busy = true; to_r!OFFER, i.epoch + 1 }
  :: atomic { to_i?ASK, e ->
       if
#ifdef MUTANT_ALWAYS_OFFERS
       :: e > 0 && i.epoch < LAST && len(to_r) < 3 -> i.busy = true; to_r!OFFER, i.epoch + 1
#else
       :: e == i.epoch + 1 && !i.busy && e <= LAST -> i.busy = true; to_r!OFFER, e
#endif
       :: else
       fi; e = 0 }
  :: atomic { to_i?ANSWER, e ->
       assert(i.busy && e == i.epoch + 1);
       i.busy = false;
       install(i, e);
       i.pending = true; adopt(i);
       seal(i, r); way_to_r[i.send] = true; e = 0 }    /* the responder is shown a packet of it */
  :: atomic { FRESH(i) && !way_to_r[i.send] -> seal(i, r); way_to_r[i.send] = true }
  od
}

proctype Responder() {
  do
  :: atomic { CAN_ASK -> r.busy = true; to_i!ASK, r.epoch + 1 }
  :: atomic { to_r?OFFER, e ->
       assert(e == r.epoch + 1);
       adopt(r);
       install(r, e);
       r.pending = true; r.busy = false;
#ifdef MUTANT_RESPONDER_SEALS_AT_ONCE
       adopt(r);
#endif
       to_i!ANSWER, e; e = 0 }
  :: atomic { FRESH(r) && !way_to_i[r.send] -> seal(r, i); way_to_i[r.send] = true }
  od
}

#ifdef MUTANT_NEVER_SHOWN
#define SHOWN false
#else
#define SHOWN true
#endif

/* Packets arrive, the newest and any other, as often as they like. */
proctype NewestToResponder() {
  do
  :: atomic { SHOWN && way_to_r[i.send] && r.receives[i.send] && r.pending && r.epoch == i.send -> heard(r, i.send) }
  od
}
proctype Packets() {
  do
  :: atomic { k == 0 -> select(e: 0 .. LAST);
       if
       :: SHOWN && way_to_r[e] && r.receives[e] -> heard(r, e)
       :: way_to_i[e] && i.receives[e] -> heard(i, e)
       :: else
       fi; e = 0 }
  od
}

#ifdef TIMELY
#define IN_TIME (len(to_r) + len(to_i) == 0 && !(r.pending && way_to_r[r.epoch]))
#else
#define IN_TIME true
#endif

#define AT_END (i.send == LAST && r.send == LAST && i.age >= REKEY_AFTER)  /* no later epoch is looked at */
#define TICKS (!CAN_OFFER && !CAN_ASK && IN_TIME && i.age < LIFETIME && r.age < LIFETIME && !AT_END)

proctype Clock() {
  do
  :: atomic { TICKS -> age_of(i); age_of(r); check(i); check(r) }
  :: atomic { i.age >= LIFETIME || r.age >= LIFETIME ->
#ifdef MUTANT_SEALS_EXPIRED
       if :: skip :: new_session() fi
#else
       new_session()
#endif
     }
  :: AT_END -> skip
  :: atomic { !lost_once -> lost_once = true; new_session() }
  od
}

init {
  atomic {
    begin(i); begin(r);
    run Initiator(); run Responder(); run NewestToResponder(); run Packets(); run Clock()
  }
}

ltl converge { <> [] (i.send == LAST && r.send == LAST && i.epoch == LAST && r.epoch == LAST) }
