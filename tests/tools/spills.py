"""Fails on vector registers that live on the stack inside an innermost loop.

Usage: spills.py [--objdump PROGRAM] [--except FILE] OBJECT_OR_ARCHIVE...
Disassembles objects for x86-64 or 64-bit Arm with objdump and finds natural loops in the graph of basic blocks: a jump to a block
that dominates it closes one (a switch by a jump table is not followed). Innermost loops contain no
other, but for loops that only fetch. A spill is a ymm or zmm (q) load or store at a fixed place of the stack frame; indexed
places (local arrays) and broadcasts of scalars are none. The file of exceptions has lines
"[rung:]function most_spills reason". Exit code 1 on spills, 77 without objdump."""
import re
import shutil
import subprocess
import sys
from collections import namedtuple

Instruction = namedtuple("Instruction", "at name operands")
Loop = namedtuple("Loop", "first size loads stores")

ARCHIVE = re.compile(r"^In archive (\S+):$")
MEMBER = re.compile(r"^(\S+):\s+file format")
FUNCTION = re.compile(r"^[0-9a-f]+ <([^>]+)>:")
LINE = re.compile(r"^\s*([0-9a-f]+):\s+(?:\{\w+\} )?(\S+)\s*(.*)$")
COMMENT = re.compile(r"\s# |//")
TARGET = re.compile(r"(?:^|, )([0-9a-f]+) <")
JUMP = re.compile(r"^(j\w+|b|b\.\w+|cbn?z|tbn?z)$")
NO_WAY_ON = ("jmp", "ret", "ud2", "b", "br", "brk")
SPLIT = re.compile(r",(?![^(]*\))")
FIXED_PLACE = re.compile(r"^-?(?:0x[0-9a-f]+)?\(%(rsp|rbp)\)")
WIDE = re.compile(r"%[yz]mm\d+")
ARM_PLACE = re.compile(r"^\[(sp|x29)(?:, #-?\d+)?\]")
ARM_MOVE = re.compile(r"^(ld|st)(?:u?r|p|np)$")
ARM_WIDE = re.compile(r"^q\d+")
SPLIT_ARM = re.compile(r",\s*(?![^[]*\])")
VECTOR = re.compile(r"[xyz]mm\d|\b[vqds]\d")
PREFETCH = re.compile(r"^(prefetch|prfm)")
COMPARES_ONLY = re.compile(r"^(vptest|vucomis|vcomis|vtest)")


def functions(listing):
    """Yields (object, function, instructions) of an objdump listing."""
    archive, member, name, body = "", None, None, []
    for line in listing.splitlines():
        if m := ARCHIVE.match(line):
            archive = m[1] + "/"
        elif m := MEMBER.match(line):
            member = archive + m[1]
        elif m := FUNCTION.match(line):
            if name and body:
                yield member, name, body
            name, body = m[1], []
        elif (m := LINE.match(line)) and name:
            body.append(Instruction(int(m[1], 16), m[2], COMMENT.split(m[3])[0].strip()))
    if name and body:
        yield member, name, body


def target_of(i):
    m = TARGET.search(i.operands)
    return int(m[1], 16) if m and JUMP.match(i.name) else None


def blocks(body):
    """Basic blocks as lists of instructions, and the successors of each by index."""
    places = {i.at for i in body}
    starts = {body[0].at} | {target_of(i) for i in body if target_of(i) in places}
    starts |= {after.at for i, after in zip(body, body[1:]) if JUMP.match(i.name) or i.name in NO_WAY_ON}
    found, index = [], {}
    for i in body:
        if i.at in starts:
            index[i.at] = len(found)
            found.append([])
        found[-1].append(i)
    successors = []
    for n, block in enumerate(found):
        last = block[-1]
        to = [index[target_of(last)]] if target_of(last) in places else []
        if last.name not in NO_WAY_ON and n + 1 < len(found):
            to.append(n + 1)
        successors.append(to)
    return found, successors


def dominators(successors):
    """The immediate dominator of each block, None where it cannot be reached (Cooper, Harvey, Kennedy)."""
    order, seen, stack = [], {0}, [(0, iter(successors[0]))]
    while stack:
        node, rest = stack[-1]
        fresh = next((x for x in rest if x not in seen), None)
        if fresh is None:
            order.append(node)
            stack.pop()
        else:
            seen.add(fresh)
            stack.append((fresh, iter(successors[fresh])))
    rank = {node: n for n, node in enumerate(order)}
    predecessors = [[] for _ in successors]
    for node in order:
        for to in successors[node]:
            predecessors[to].append(node)
    idom = [None] * len(successors)
    idom[0] = 0
    changed = True
    while changed:
        changed = False
        for node in reversed(order[:-1]):
            known = [p for p in predecessors[node] if idom[p] is not None]
            new = known[0]
            for p in known[1:]:
                while new != p:
                    if rank[new] < rank[p]:
                        new = idom[new]
                    else:
                        p = idom[p]
            changed |= idom[node] != new
            idom[node] = new
    return idom, predecessors


def dominates(idom, a, b):
    while b != a and b != 0:
        b = idom[b]
    return a == b


def only_fetches(code):
    return any(PREFETCH.match(i.name) for i in code) and not any(VECTOR.search(i.operands) for i in code)


def loops(body):
    """Instructions of each innermost loop."""
    found, successors = blocks(body)
    idom, predecessors = dominators(successors)
    inside = {}  # head: blocks of the loop
    for tail, to in enumerate(successors):
        for head in to:
            if idom[tail] is None or not dominates(idom, head, tail):
                continue
            members = inside.setdefault(head, {head})
            todo = [tail]
            while todo:
                node = todo.pop()
                if node not in members:
                    members.add(node)
                    todo += predecessors[node]
    bodies = {head: [i for n in sorted(members) for i in found[n]] for head, members in inside.items()}
    heads = [head for head, code in bodies.items() if not only_fetches(code)]
    return [bodies[head] for head in sorted(heads)
            if not any(other in inside[head] for other in heads if other != head)]


def has_frame(body):
    """Does rbp (x29) point into the stack frame? Otherwise it is a register like any other."""
    return any(i.name == "mov" and i.operands in ("%rsp,%rbp", "x29, sp") for i in body)


def stack_use(i, frame):
    """'load', 'store' or None."""
    if (move := ARM_MOVE.match(i.name)) and ARM_WIDE.match(i.operands):
        place = ARM_PLACE.match(SPLIT_ARM.split(i.operands)[2 if i.name.endswith("p") else 1])
        return {"ld": "load", "st": "store"}[move[1]] if place and (place[1] == "sp" or frame) else None
    if i.name.startswith(("vbroadcast", "vpbroadcast")) or not WIDE.search(i.operands):
        return None
    operands = [o.strip() for o in SPLIT.split(i.operands)]
    for n, operand in enumerate(operands):
        m = FIXED_PLACE.match(operand)
        if not m or (m[1] == "rbp" and not frame) or "{1to" in operand:
            continue
        is_target = n == len(operands) - 1 and not COMPARES_ONLY.match(i.name)
        return "store" if is_target else "load"
    return None


def spilling_loops(body):
    frame, found = has_frame(body), []
    for inside in loops(body):
        uses = [stack_use(i, frame) for i in inside]
        if any(uses):
            found.append(Loop(inside[0].at, len(inside), uses.count("load"), uses.count("store")))
    return found


def exceptions(path):
    allowed = {}
    with open(path, encoding="utf-8") as f:
        for line in f:
            fields = line.split(None, 2)
            if fields and not line.startswith("#"):
                if len(fields) < 3:
                    raise SystemExit(f"{path}: '{line.strip()}': write: function most_spills reason")
                allowed[fields[0]] = int(fields[1])
    return allowed


def is_of(rung, member):
    """Does the object lie in the library or folder of the rung, or of one whose name goes on (avx512_vnni)?"""
    return re.search(rf"(^|[/_]){re.escape(rung)}(_\w+)?[./]", member or "") is not None


def exception_of(allowed, member, function):
    """The key that stands for a function of an object, or None."""
    for key in allowed:
        rung, _, name = key.rpartition(":")
        if name == function and (not rung or is_of(rung, member)):
            return key
    return None


def check(listing, allowed):
    """Prints what it finds; returns (functions, innermost loops, faults)."""
    n_functions = n_loops = faults = 0
    needed, seen = set(), set()
    for member, name, body in functions(listing):
        n_functions += 1
        n_loops += len(loops(body))
        key = exception_of(allowed, member, re.sub(r"\.(isra|constprop|part|cold)\b.*", "", name))
        seen.add(key)
        for loop in spilling_loops(body):
            spills = loop.loads + loop.stores
            if spills <= allowed.get(key, 0):
                needed.add(key)
                continue
            faults += 1
            print(f"{member}: {name}: {loop.loads} loads and {loop.stores} stores of spilled vectors in the "
                  f"innermost loop at {loop.first:x} ({loop.size} instructions)")
    for name in sorted(seen - needed - {None}):
        print(f"note: nothing needs the exception for {name} any more")
    return n_functions, n_loops, faults


def main(args):
    allowed = {}
    program = "objdump"
    if args[:1] == ["--objdump"]:
        program, args = args[1], args[2:]
    if args[:1] == ["--except"]:
        allowed, args = exceptions(args[1]), args[2:]
    objdump = shutil.which(program)
    if not objdump:
        print(f"{program} is not installed")
        return 77
    if not args:
        raise SystemExit(__doc__)
    listing = ""
    for path in args:
        listing += subprocess.run([objdump, "-d", "--no-show-raw-insn", path], check=True, capture_output=True,
                                  text=True).stdout
    n_functions, n_loops, faults = check(listing, allowed)
    print(f"{n_functions} functions, {n_loops} innermost loops, {faults} faults")
    return 1 if faults or not n_functions else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
