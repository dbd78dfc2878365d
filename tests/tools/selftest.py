"""Do the checks of the source text fail on what they forbid? Each gets a small tree or listing that
is sound, then one with a fault. Usage: selftest.py ROOT. Exit code 1 if a check let a fault pass, 77
if a tool is missing (named) and the rest was as it should be."""
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.abspath(sys.argv[1])
TOOLS = os.path.join(ROOT, "tests/tools")
LAYERS = ("base", "kernels", "adapters", "engine", "server", "clients", "tests")
sys.path.insert(0, TOOLS)
import spills  # noqa: E402

failures, missing = [], set()

GOOD = {
    "base/a.h": "#ifndef A_H\n#define A_H\nint lodge_a(int x);\n#endif\n",
    "base/a.c": '#include "base/a.h"\n\nint lodge_a(int x)\n{\n    return x + 1;\n}\n',
    "engine/engine.h": '#include "base/a.h"\n',
    "engine/b.c": '#include "engine/engine.h"\n',
    "server/c.c": '#include "engine/engine.h"\n',
    "tests/tools/functions.except": "",
}


def run(tool, files, *args):
    """Exit code and output of a tool over a tree of these files."""
    with tempfile.TemporaryDirectory() as tree:
        for layer in LAYERS:
            os.makedirs(os.path.join(tree, layer))
        for path, text in files.items():
            os.makedirs(os.path.dirname(os.path.join(tree, path)), exist_ok=True)
            with open(os.path.join(tree, path), "w", encoding="utf-8") as f:
                f.write(text)
        for name in (".clang-format", ".clang-tidy"):
            shutil.copy(os.path.join(ROOT, name), tree)
        commands = [{"directory": tree, "file": p, "command": f"cc -I. -c {p}"} for p in files if p.endswith(".c")]
        with open(os.path.join(tree, "compile_commands.json"), "w", encoding="utf-8") as f:
            json.dump(commands, f)
        command = [os.path.join(TOOLS, tool), tree] + [a.replace("TREE", tree) for a in args]
        if tool.endswith(".py"):
            command.insert(0, sys.executable)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr


def expect(what, tool, files, words, *args):
    """The tool refuses these files beside the good ones, naming `words`; None: it is content."""
    code, output = run(tool, {**GOOD, **files}, *args)
    if code == 77:
        missing.add(output.strip())
    elif words is None and code != 0:
        failures.append(f"{tool}: refuses {what}: {output}")
    elif words is not None and (code == 0 or words not in output):
        failures.append(f"{tool}: passes {what} (exit code {code}): {output}")


def check_layers():
    expect("a sound tree", "layers.py", {}, None)
    expect("an upward edge", "layers.py", {"base/d.c": '#include "engine/engine.h"\n'}, "may not depend on engine")
    expect("a path not from the root", "layers.py", {"engine/d.c": '#include "b.h"\n'}, "no such file from the root")
    expect("an edge in angle brackets", "layers.py", {"base/d.c": "#include <engine/engine.h>\n"}, "may not depend")
    expect("a peek into the engine", "layers.py",
           {"engine/pool.h": "", "server/d.c": '#include "engine/pool.h"\n'}, "sees engine/engine.h alone")
    expect("a peek into a backend", "layers.py",
           {"kernels/cpu/k.h": "", "engine/d.c": '#include "kernels/cpu/k.h"\n'}, "private to")
    expect("a circle", "layers.py", {"engine/x.h": '#include "engine/y.h"\n', "engine/y.h": '#include "engine/z.h"\n',
                                     "engine/z.h": '#include "engine/x.h"\n'},
           "circle: engine/x.h -> engine/y.h -> engine/z.h -> engine/x.h")
    expect("a file that includes itself", "layers.py", {"base/s.h": '#include "base/s.h"\n'}, "circle: base/s.h")


def check_functions():
    long = {"base/l.c": "int f(int x)\n{\n" + "    x++;\n" * 121 + "    return x;\n}\n"}
    twisted = {"base/t.c": "int g(int x)\n{\n" + "".join(f"    if (x == {n}) x++;\n" for n in range(36)) +
               "    return x;\n}\n"}
    expect("short functions", "functions", {}, None)
    expect("a long function", "functions", long, "base/l.c:f: ")
    expect("a twisted function", "functions", twisted, "base/t.c:g: ")
    expect("an exception", "functions", {**long, "tests/tools/functions.except": "base/l.c:f one table\n"}, None)
    expect("another's exception", "functions", {**long, "tests/tools/functions.except": "base/l.c:ff one\n"}, "base/l.c:f: ")


def check_format():
    expect("good form", "format", {}, None)
    expect("bad form", "format", {"tests/x/f.c": "int  f( void ){return 1;}\n"}, "f.c")


def check_tidy():
    wrong = "static int f(int x)\n{\n    return x == x;\n}\n"
    use = "int g(int x);\nint g(int x)\n{\n    return f(x);\n}\n"
    expect("sound code", "tidy", {}, None, "TREE")
    expect("a comparison with itself", "tidy", {"base/w.c": wrong + use}, "misc-redundant-expression", "TREE")
    expect("the same in a header", "tidy", {"base/w.h": wrong, "base/w.c": '#include "base/w.h"\n' + use},
           "misc-redundant-expression", "TREE")


# One function a case: (what, faults, instructions). Jumps name places by line.
LISTINGS = [
    ("a store and a load in a loop", 1, """
        vmovaps %zmm1,0x40(%rsp)
        vaddps 0x40(%rsp),%zmm1,%zmm2
        jne 0
        ret"""),
    ("a spill outside the loop", 0, """
        vmovaps %zmm1,0x40(%rsp)
        add $1,%rax
        jne 1
        vmovaps 0x40(%rsp),%zmm1
        ret"""),
    ("a spill in the outer loop only", 0, """
        vmovaps %zmm1,0x40(%rsp)
        add $1,%rax
        jne 1
        jb 0
        ret"""),
    ("a jump back that closes no loop", 0, """
        je 3
        vmovaps %zmm1,0x40(%rsp)
        ret
        add $1,%rax
        jmp 1"""),
    ("rbp as a pointer like any other", 0, """
        vmovups 0x40(%rbp),%zmm1
        jne 0
        ret"""),
    ("rbp as the frame", 1, """
        mov %rsp,%rbp
        vmovups -0x40(%rbp),%ymm1
        jne 1
        ret"""),
    ("a local array, a broadcast, a narrow register", 0, """
        vmovups 0x40(%rsp,%rax,4),%zmm1
        vpbroadcastd 0x40(%rsp),%zmm2
        vaddps 0x40(%rsp){1to16},%zmm3,%zmm4
        vmovaps 0x80(%rsp),%xmm1
        jne 0
        ret"""),
    ("a loop with one inside that only fetches", 1, """
        vmovups (%rsp),%zmm1
        prefetcht1 (%rax)
        jne 1
        jne 0
        ret"""),
    ("Arm", 1, """
        ldp q1, q2, [sp, #32]
        str q1, [sp, #64]
        b.ne 0
        ret"""),
    ("Arm, x29 no frame, a narrow register, memory", 0, """
        ldr q1, [x29, #32]
        ldr d1, [sp, #32]
        ldr q1, [x0]
        cbnz x1, 0
        ret"""),
]


def listing_of(name, text, member="x.o"):
    lines = [l.strip() for l in text.strip().splitlines()]
    out = [f"{member}:     file format elf64", f"0000000000000000 <{name}>:"]
    for at, line in enumerate(lines):
        op, _, operands = line.partition(" ")
        if spills.JUMP.match(op):
            *before, to = operands.split(", ")
            operands = ", ".join(before + [f"{int(to):x} <{name}+0x{int(to):x}>"])
        out.append(f"  {at:x}:\t{op} {operands}")
    return "\n".join(out)


def check_spills():
    for what, want, text in LISTINGS:
        for allowed, faults in (({}, want), ({"f": 2}, 0)):
            with contextlib.redirect_stdout(io.StringIO()):
                found = spills.check(listing_of("f.isra.0", text), allowed)[2]
            if found != faults:
                failures.append(f"spills.py: {what}: {found} faults, not {faults}")
    for member, faults in (("lib_b_c.a.p/x.o", 0), ("b/x.o", 0), ("lib_bc.a.p/x.o", 1)):
        with contextlib.redirect_stdout(io.StringIO()):
            found = spills.check(listing_of("f", LISTINGS[0][2], member), {"b:f": 9})[2]
        if found != faults:
            failures.append(f"spills.py: the exception of rung b for {member}: {found} faults, not {faults}")


for check in (check_layers, check_functions, check_format, check_tidy, check_spills):
    check()
print("\n".join(failures) if failures else "every check fails on what it forbids")
if missing:
    print("not checked: " + "; ".join(sorted(missing)))
sys.exit(1 if failures else 77 if missing else 0)
