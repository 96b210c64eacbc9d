#!/usr/bin/env python3
"""Proves what is promised of the replay window and of the parser of a datagram's first bytes, by Z3.

Reads the C that runs (ext/window.h, ext/header.h), executes it with symbolic values, all branches at once and
asks Z3 for a counterexample to each property, over every window, number and datagram. Then it plants faults
in the C, one by one: each has to be refuted. Exit status: 0 all proved and refuted, 1 not, 77 no Z3 here.

Not proved here: that the compiler is right, and what callers do with the verdicts.
"""

from __future__ import annotations

import operator
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    import z3
    from pycparser import c_ast, c_parser
except ImportError as error:
    print(f"skipped: Python's package {error.name} is missing; pip install z3-solver pycparser")
    sys.exit(77)

EXT = Path(__file__).resolve().parents[2] / "ext"
WORD = 64
LONGEST_LOOP = 128
SIZE = 8128
"""Numbers that a window judges (docs/protocol.md section 6)."""


def word(value: int) -> Any:
    return z3.BitVecVal(value, WORD)


class Memory:
    """An array of words or bytes that is read and written under conditions."""

    def __init__(self, name: str, length: Any, bits: int) -> None:
        self.length = length
        self._first = z3.Array(name, z3.BitVecSort(WORD), z3.BitVecSort(bits))
        self._writes: list[tuple[Any, Any, Any]] = []
        self._bits = bits

    def copy(self) -> Memory:
        made = Memory.__new__(Memory)
        made.length, made._first, made._bits = self.length, self._first, self._bits
        made._writes = list(self._writes)
        return made

    def read(self, place: Any) -> Any:
        value = self._first[place]
        for condition, where, written in self._writes:
            value = z3.If(z3.And(condition, where == place), written, value)
        return z3.ZeroExt(WORD - self._bits, value) if self._bits < WORD else value

    def write(self, condition: Any, place: Any, value: Any) -> None:
        self._writes.append((condition, place, value))


class Window:
    """struct sm_window."""

    def __init__(self) -> None:
        self.newest: Any = z3.BitVec("newest", WORD)
        self.bits = Memory("bits", word(128), WORD)

    def copy(self) -> Window:
        made = Window.__new__(Window)
        made.newest, made.bits = self.newest, self.bits.copy()
        return made


SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "&": operator.and_,
    "|": operator.or_,
    "<<": operator.lshift,
    ">>": z3.LShR,
    ">": z3.UGT,
    ">=": z3.UGE,
    "<": z3.ULT,
    "<=": z3.ULE,
    "==": operator.eq,
    "!=": operator.ne,
}


class Run:
    """One call, for all values at once. `duties`: what has to hold so that C says what it does."""

    def __init__(self, functions: dict[str, Any], duties: list[Any]) -> None:
        self._functions = functions
        self.duties = duties
        self._names: dict[str, Any] = {}
        self._alive: Any = z3.BoolVal(True)
        """Where this path has not returned yet."""
        self._result: Any = word(0)

    def call(self, name: str, values: list[Any], alive: Any) -> Any:
        function = self._functions[name]
        names = [one.name for one in function.decl.type.args.params]
        self._names, self._alive = dict(zip(names, values, strict=True)), alive
        self._block(function.body)
        self.duties.append(z3.Not(self._alive))  # every path returns
        return self._result

    def _block(self, node: Any) -> None:
        for one in node.block_items if isinstance(node, c_ast.Compound) else [node]:
            getattr(self, f"_{type(one).__name__.lower()}")(one)

    # Statements.

    def _decl(self, node: Any) -> None:
        self._names[node.name] = word(0) if node.init is None else self._value(node.init)

    def _return(self, node: Any) -> None:
        self._result = z3.If(self._alive, self._value(node.expr), self._result)
        self._alive = z3.BoolVal(False)

    def _if(self, node: Any) -> None:
        assert node.iffalse is None, "`else` is not known"
        before, condition = self._alive, self._truth(node.cond)
        self._alive = z3.And(before, condition)
        self._block(node.iftrue)
        self._alive = z3.Or(self._alive, z3.And(before, z3.Not(condition)))

    def _for(self, node: Any) -> None:
        """A counter from a constant upwards, which nothing in the body changes or uses afterwards."""
        before, counter = self._alive, node.init.lvalue.name
        assert node.next.op == "p++"
        assert node.next.expr.name == counter
        first = int(node.init.rvalue.value, 0)
        for turn in range(first, first + LONGEST_LOOP):
            self._names[counter] = word(turn)
            self._alive = z3.And(self._alive, self._truth(node.cond))
            self._block(node.stmt)
        self._names[counter] = word(first + LONGEST_LOOP)
        self.duties.append(z3.Not(z3.And(self._alive, self._truth(node.cond))))
        del self._names[counter]
        self._alive = before

    def _assignment(self, node: Any) -> None:
        value = self._value(node.rvalue)
        if node.op != "=":
            value = SIGNS[node.op[:-1]](self._value(node.lvalue), value)
        self._store(node.lvalue, value)

    def _store(self, target: Any, value: Any) -> None:
        if isinstance(target, c_ast.ArrayRef):
            memory, place = self._place(target)
            memory.write(self._alive, place, value)
        elif isinstance(target, c_ast.StructRef):
            window = self._names[target.name.name]
            window.newest = z3.If(self._alive, value, window.newest)
        else:
            self._names[target.name] = z3.If(self._alive, value, self._names[target.name])

    # Expressions: words, or what is true.

    def _truth(self, node: Any) -> Any:
        value = self._value(node)
        return value if z3.is_bool(value) else value != 0

    def _value(self, node: Any) -> Any:
        if isinstance(node, c_ast.Constant):
            return word(int(node.value, 0))
        if isinstance(node, c_ast.ID):
            return self._names[node.name]
        if isinstance(node, c_ast.Cast):
            return self._value(node.expr)
        if isinstance(node, c_ast.StructRef):
            return getattr(self._names[node.name.name], node.field.name)
        if isinstance(node, c_ast.ArrayRef):
            memory, place = self._place(node)
            return memory.read(place)
        if isinstance(node, c_ast.FuncCall):
            values = [self._value(one) for one in node.args.exprs]
            return Run(self._functions, self.duties).call(node.name.name, values, self._alive)
        assert isinstance(node, c_ast.BinaryOp), type(node)
        return self._binary(node)

    def _binary(self, node: Any) -> Any:
        if node.op == "&&":
            before, left = self._alive, self._truth(node.left)
            self._alive = z3.And(before, left)
            both = z3.And(left, self._truth(node.right))
            self._alive = before
            return both
        left, right = self._value(node.left), self._value(node.right)
        if node.op in ("<<", ">>"):
            self.duties.append(z3.Implies(self._alive, z3.ULT(right, WORD)))
            assert node.op == ">>" or isinstance(node.left, c_ast.Cast), "a shift to the left of an int"
        return SIGNS[node.op](left, right)

    def _place(self, node: Any) -> tuple[Memory, Any]:
        base = node.name
        memory = self._names[base.name] if isinstance(base, c_ast.ID) else self._value(base)
        place = self._value(node.subscript)
        self.duties.append(z3.Implies(self._alive, z3.ULT(place, memory.length)))
        return memory, place


def functions_of(text: str) -> dict[str, Any]:
    """The functions of a header, without its preprocessor's lines."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    constants = dict(re.findall(r"^#define (\w+) +(\w+)", text, re.MULTILINE))
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\w+", lambda found: constants.get(found[0], found[0]), text)
    types = "typedef unsigned long uint64_t; typedef unsigned char uint8_t; typedef unsigned long size_t;"
    parsed = c_parser.CParser().parse(types + text)
    return {one.decl.name: one for one in parsed.ext if isinstance(one, c_ast.FuncDef)}


# What is promised.


def window_properties(text: str) -> dict[str, Any]:
    """Each has to be true for every window, every `number` and every other number `x`."""
    functions = functions_of(text)
    duties: list[Any] = []
    before = Window()
    number, x = z3.BitVec("number", WORD), z3.BitVec("x", WORD)
    after = before.copy()
    result = Run(functions, duties).call("sm_window_accept", [after, number], z3.BoolVal(True))
    checked = Run(functions, duties).call("sm_window_check", [before, number], z3.BoolVal(True))
    fresh, duplicate, too_old = (result == verdict for verdict in range(3))
    new = Window()
    new.newest, zeros = word(0), z3.K(z3.BitVecSort(WORD), word(0))
    new.bits._first = zeros

    def is_set(window: Window, one: Any) -> Any:
        return z3.LShR(window.bits.read(z3.LShR(one, 6) & 127), one & 63) & 1 == 1

    def judged(window: Window, one: Any) -> Any:
        return z3.And(z3.ULE(one, window.newest), z3.ULT(window.newest - one, SIZE))

    def spent(window: Window, one: Any) -> Any:
        return z3.And(z3.ULE(one, window.newest), z3.Implies(judged(window, one), is_set(window, one)))

    def clean(window: Window, one: Any) -> Any:
        """Bits of numbers that have not come are not set, where they share the newest one's word."""
        ahead = z3.And(z3.UGT(one, window.newest), z3.LShR(one, 6) == z3.LShR(window.newest, 6))
        return z3.Implies(ahead, z3.Not(is_set(window, one)))

    taken = z3.And(fresh, x == number)
    known = z3.And(spent(after, x), judged(after, x), z3.Not(taken))
    return {
        "no number is accepted twice: what is accepted is spent": z3.Implies(fresh, spent(after, number)),
        "no number is accepted twice: what is spent is not accepted": z3.Implies(
            spent(before, number), z3.Not(fresh)
        ),
        "no number is accepted twice: what is spent stays so": z3.Implies(spent(before, x), spent(after, x)),
        "in a new window nothing is spent": z3.Not(spent(new, x)),
        "none older than the window is accepted": too_old
        == z3.And(z3.ULT(number, before.newest), z3.UGE(before.newest - number, SIZE)),
        "the window never moves back": z3.UGE(after.newest, before.newest),
        "it ends with the newest accepted": after.newest
        == z3.If(z3.And(fresh, z3.UGT(number, before.newest)), number, before.newest),
        "what is refused changes nothing": z3.Implies(
            z3.Not(fresh), after.bits.read(x & 127) == before.bits.read(x & 127)
        ),
        "only what is spent is refused as duplicate": z3.Implies(duplicate, spent(before, number)),
        "nothing else becomes spent": z3.Implies(z3.And(clean(before, x), known), spent(before, x)),
        "bits of numbers to come stay clear": z3.Implies(clean(before, x), clean(after, x)),
        "check and accept judge alike": checked == result,
        "three verdicts": z3.Or(fresh, duplicate, too_old),
        "all reads, writes, shifts and the loop within bounds": z3.And(duties),
    }


def header_properties(text: str) -> dict[str, Any]:
    """Each has to be true for every datagram of every size."""
    functions = functions_of(text)
    duties: list[Any] = []
    size = z3.BitVec("size", WORD)
    data = Memory("data", size, 8)
    form = Run(functions, duties).call("sm_header_form", [data, size], z3.BoolVal(True))
    at = Run(functions, duties).call("sm_header_id_at", [data, size], z3.BoolVal(True))
    top = z3.LShR(data.read(word(0)), 6)
    forms = [size == 0, top == 3, top == 1, z3.Or(top == 0, top == 2)]
    named = z3.Or(
        z3.And(form == 2, z3.UGE(size, 9)),
        z3.And(form == 1, z3.UGE(size, 14), data.read(word(5)) == 8),
    )
    return {
        "nothing is read beyond the datagram": z3.And(duties),
        "every datagram has one form": z3.And(
            (form == 0) == forms[0],
            *((form == kind) == z3.And(size != 0, forms[kind]) for kind in (1, 2, 3)),
        ),
        "an id is within the datagram": z3.Implies(at != 0, z3.And(z3.ULE(at, size), z3.UGE(size - at, 8))),
        "there is one where the protocol has one": (at != 0) == named,
        "it is where the protocol has it": z3.Implies(at != 0, at == z3.If(form == 2, word(1), word(6))),
    }


PROOFS = {"window.h": window_properties, "header.h": header_properties}
MUTANTS = [
    ("window.h", "window->newest - number >= SM_WINDOW_SIZE", "window->newest - number > SM_WINDOW_SIZE"),
    ("window.h", "#define SM_WINDOW_SIZE 8128", "#define SM_WINDOW_SIZE 8192"),
    ("window.h", "for (i = 0; i < steps; i++)", "for (i = 1; i < steps; i++)"),
    ("window.h", "steps = SM_WINDOW_WORDS;", "steps = SM_WINDOW_WORDS - 1;"),
    ("window.h", "(word + 1 + i) & 127", "(word + 1 + i) & 63"),
    ("window.h", "[(number >> 6) & 127] |=", "[(number >> 6) & 127] ="),
    ("window.h", "if (number > window->newest) {", "if (number >= 0) {"),
    ("window.h", "window->bits[(number >> 6) & 127] >>", "window->bits[(number >> 6) & 255] >>"),
    ("header.h", "SHORT && size >= SM_SHORT_ID_AT", "SHORT && 1 + size >= SM_SHORT_ID_AT"),
    ("header.h", "size >= SM_LONG_ID_AT + SM_ID_SIZE && data", "size >= SM_ID_SIZE && data"),
    ("header.h", "    if (size == 0)\n        return SM_FORM_NONE;\n", ""),
    ("header.h", "LONG && size >= SM_LONG_ID_AT + SM_ID_SIZE && data", "LONG && data"),
    ("header.h", "(data[0] & 0xC0) == 0x40", "(data[0] & 0x80) == 0"),
]  # fmt: skip


def counterexample(claim: Any) -> Any:
    """Values for which it does not hold; None if there are none."""
    solver = z3.SolverFor("QF_AUFBV")
    solver.add(z3.Not(claim))
    found = solver.check()
    if found == z3.unknown:
        raise RuntimeError(f"Z3 gives up: {solver.reason_unknown()}")
    return solver.model() if found == z3.sat else None


def refuted_by(file: str, old: str, new: str) -> str | None:
    text = (EXT / file).read_text()
    assert old in text, f"{file} has changed: no {old!r}"
    for name, claim in PROOFS[file](text.replace(old, new, 1)).items():
        if counterexample(claim) is not None:
            return name
    return None


def main() -> int:
    """Prove, then refute; returns the exit status."""
    failed = 0
    for file, properties in PROOFS.items():
        for name, claim in properties((EXT / file).read_text()).items():
            found = counterexample(claim)
            failed += found is not None
            print(f"{'proved ' if found is None else 'REFUTED'}  {file}: {name}", flush=True)
            if found is not None:
                print(f"         {found}")
    for file, old, new in MUTANTS:
        refuting = refuted_by(file, old, new)
        failed += refuting is None
        what = f"{file}: {' '.join(old.split())!r} -> {' '.join(new.split())!r}"
        print(f"{'SURVIVED' if refuting is None else 'refuted '}  {what}", flush=True)
        if refuting is not None:
            print(f"          not: {refuting}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
