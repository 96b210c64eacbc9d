/* The choice of a path to one peer, for Spin: when an address may get frames, when frames leave it.
   After shadowmesh/path/{handshake,path,paths,selector}.py; docs/protocol.md, section 8.

   Ways: RELAY; A and B, direct; EVIL, an address of the attacker's. The attacker has every packet that either side
   sends, on any way, and sends it again once (each counts once: the replay window), later, and from where it likes, and
   forged packets too, which do not open. It has no keys. Whether a packet for EVIL ever reaches the peer is the
   attacker's choice; A and B stop and begin to work a few times. Costs differ, and change by a tenth all the time.

   Searched with the attacker and any order of costs (the assertion), and with CALM: without the attacker, with costs
   (the claims).

   Assertion: whenever frames go to a direct way, the peer has since that way was last given up opened a challenge that
   was sent there, and a full-size probe that was sent there. Claims: `fallback` (a way that has gone for good does
   not keep the frames), `regained` (with a direct way that works, frames do not stay on the relay for want of one),
   `settles` (with the world at rest but for the noise, frames do not go to and fro). */

#define RELAY 0
#define A 1
#define B 2
#define EVIL 3
#define WAYS 4
#define CHANGES 2         /* times that A or B stop or begin to work */

#define TRYING 0
#define CHECKING 1
#define USABLE 2

byte state[WAYS];
bool up[WAYS];
bool asked[WAYS];         /* a challenge that was sent there waits for its echo */
bool response[WAYS];      /* the peer's answer to that challenge is under way: the attacker has it */
bool probed[WAYS];        /* a full-size probe that was sent there waits for its reply */
bool reply[WAYS];         /* the peer's reply to it is under way */
bool met[WAYS];           /* ghost: the peer opened a challenge that was sent there */
bool carried[WAYS];       /* ghost: the same for a full-size probe */
byte base[WAYS], noise[WAYS];
byte route = RELAY;
bool moved;               /* ghost: frames have just taken another way */
byte changes, best, w;

#define COST(x) (base[x] + noise[x])
#ifdef MUTANT_NO_HYSTERESIS
#define CLEARLY(there, here) (COST(there) < COST(here))
#else
#define CLEARLY(there, here) (10 * COST(there) <= 8 * COST(here))
#endif

inline go(x) {
  if
  :: route != x ->
     assert(x == RELAY || (met[x] && carried[x]));
     route = x; moved = true
  :: else -> moved = false
  fi
}

/* selector.choose */
inline decide() {
  best = WAYS; w = 0;
  do
  :: w < WAYS ->
     if
#ifdef CALM
     :: state[w] == USABLE && (best == WAYS || COST(w) < COST(best)) -> best = w
     :: else
#else
     :: state[w] == USABLE -> best = w      /* costs are not looked at: any that works */
     :: true
#endif
     fi;
     w++
  :: else -> break
  od;
  w = 0;
  if
  :: best == WAYS ->
#ifdef MUTANT_NO_FALLBACK
     skip
#else
     go(RELAY)
#endif
  :: best != WAYS && state[route] != USABLE -> go(best)
  :: best != WAYS && state[route] == USABLE && best != route ->
     if
     :: route == RELAY || CLEARLY(best, route) -> go(best)
     :: else -> moved = false
     fi
  :: else -> moved = false
  fi;
  best = 0
}

inline give_up(x) {
  state[x] = TRYING; asked[x] = false; probed[x] = false; response[x] = false; reply[x] = false;
  met[x] = false; carried[x] = false
}

inline handle_response(echo, way) {
  if
#ifdef MUTANT_ECHO_FROM_ANYWHERE
  :: asked[echo] && state[way] == TRYING -> asked[echo] = false; state[way] = CHECKING
#else
  :: asked[echo] && echo == way && state[way] == TRYING -> asked[echo] = false; state[way] = CHECKING
#endif
  :: else       /* BadPacket: only a reason to ask there */
#ifdef MUTANT_SOURCE_IS_PROOF
     -> state[way] = USABLE
#endif
  fi;
  decide()
}

inline handle_reply(nonce, way) {
  if
#ifdef MUTANT_REPLY_FROM_ANYWHERE
  :: probed[nonce] && state[way] == CHECKING -> probed[nonce] = false; state[way] = USABLE
#else
  :: probed[nonce] && nonce == way && state[way] == CHECKING -> probed[nonce] = false; state[way] = USABLE
#endif
  :: else
  fi;
  decide()
}

/* All that happens on one way by itself. Requests and probes go out; what is lost is sent again; the peer answers
   what reaches it, the way it came; what is not answered has failed: 600 ms of silence, or five probes. */
proctype Direct(byte x) {
  do
#ifndef MUTANT_NO_REQUESTS
  :: atomic { state[x] == TRYING && !asked[x] -> asked[x] = true }
#endif
  :: atomic { state[x] == CHECKING && !probed[x] -> probed[x] = true }
  :: atomic { asked[x] && !met[x] && up[x] -> met[x] = true; response[x] = true }
  :: atomic { probed[x] && !carried[x] && up[x] -> carried[x] = true; reply[x] = true }
  :: atomic { response[x] && up[x] -> response[x] = false; handle_response(x, x) }
  :: atomic { reply[x] && up[x] -> reply[x] = false; handle_reply(x, x) }
#ifdef MUTANT_FULL_SIZE_NOT_TRIED
  :: atomic { state[x] == CHECKING -> state[x] = USABLE; decide() }
#endif
#ifndef MUTANT_NEVER_FAILS
  :: atomic { (state[x] != TRYING || met[x]) && !up[x] -> give_up(x); decide() }
#endif
  od
}

#define MOVE_RESPONSE(e, y) atomic { response[e] -> response[e] = false; handle_response(e, y) }
#define MOVE_REPLY(e, y) atomic { reply[e] -> reply[e] = false; handle_reply(e, y) }
proctype Attacker() {
  do
  :: atomic { up[EVIL] = !up[EVIL] }
  :: MOVE_RESPONSE(A, EVIL)
  :: MOVE_RESPONSE(B, EVIL)
  :: MOVE_RESPONSE(EVIL, A)
  :: MOVE_RESPONSE(A, B)
  :: MOVE_REPLY(A, EVIL)
  :: MOVE_REPLY(B, EVIL)
  :: MOVE_REPLY(EVIL, A)
  :: MOVE_REPLY(A, B)
  od
}

proctype World() {
  do
  :: atomic { changes < CHANGES -> changes++; up[A] = !up[A] }
  :: atomic { changes < CHANGES -> changes++; up[B] = !up[B] }
  :: changes < CHANGES -> changes = CHANGES    /* the rest of time without a change */
  :: changes == CHANGES -> break
  od
}

proctype Noise() {
  do
  :: atomic { noise[A] = 1 - noise[A]; decide() }
  :: atomic { noise[B] = 1 - noise[B]; decide() }
  :: atomic { noise[RELAY] = 1 - noise[RELAY]; decide() }
  od
}

init {
  atomic {
    up[RELAY] = true; up[A] = true; up[B] = true;
#ifndef MUTANT_NO_FALLBACK
    state[RELAY] = USABLE;
#endif
    base[EVIL] = 10;
    if :: base[RELAY] = 10 :: base[RELAY] = 13 :: base[RELAY] = 40 fi;
    base[A] = 11;
    if :: base[B] = 10 :: base[B] = 14 fi;
    run Direct(A); run Direct(B); run World();
#ifdef CALM
    run Noise()
#else
    run Direct(EVIL); run Attacker()
#endif
  }
}

/* The world is at rest. */
#define REST (changes == CHANGES)
ltl fallback { [] ((REST && !up[A]) -> <> (route != A)) }
ltl regained { [] ((REST && up[A] && up[B] && base[RELAY] == 40) -> <> (route != RELAY)) }
ltl settles { <> [] (!moved) }
