"""Checks the house: which layer may include which, and that no header includes itself by a circle.

Usage: layers.py ROOT. Prints every edge outside the list and every circle; exit code 1 if any."""
import os
import re
import sys

ALLOWED = {
    "base": set(),
    "kernels": {"base"},
    "adapters": {"kernels", "base"},
    "engine": {"adapters", "kernels", "base"},
    "server": {"engine", "adapters", "kernels", "base"},
    "clients": {"base"},
}
# server/ sees the engine through these headers alone; kernels/ headers only as engine.h shows them.
SERVER_MAY = re.compile(r"^(server/|base/|engine/engine\.h$|kernels/sample\.h$)")
# What only the CPU backend may know.
PRIVATE = {f"kernels/{part}/": ("kernels/",) for part in ("cpu", "ref", "vec", "x86", "arm")}
# In angle brackets too, where the path begins with a layer.
INCLUDE = re.compile(r'^\s*#\s*include\s+(?:"([^"]+)"|<((?:%s)/[^>]+)>)' % "|".join(ALLOWED), re.M)


def sources(root):
    for layer in ALLOWED:
        for folder, _, names in os.walk(os.path.join(root, layer)):
            for name in names:
                if name.endswith((".c", ".h", ".cu", ".cuh")):
                    yield os.path.relpath(os.path.join(folder, name), root)


def edge_faults(path, target, root):
    layer, other = path.split("/")[0], target.split("/")[0]
    if not os.path.exists(os.path.join(root, target)):
        yield f"{path}: includes \"{target}\": no such file from the root (write includes from the root)"
    elif other != layer and other not in ALLOWED[layer]:
        yield f"{path}: includes \"{target}\": {layer} may not depend on {other}"
    elif layer == "server" and not SERVER_MAY.match(target):
        yield f"{path}: includes \"{target}\": server sees engine/engine.h alone"
    for prefix, users in PRIVATE.items():
        if target.startswith(prefix) and not path.startswith(users):
            yield f"{path}: includes \"{target}\": private to {', '.join(users)}"


def circles(edges):
    state, found = {}, []

    def visit(node, trail):
        state[node] = "open"
        for target in edges.get(node, ()):
            if state.get(target) == "open":
                found.append(" -> ".join(trail[trail.index(target):] + [target]))
            elif target not in state:
                visit(target, trail + [target])
        state[node] = "done"

    for node in sorted(edges):
        if node not in state:
            visit(node, [node])
    return found


def main(root):
    edges, faults = {}, []
    for path in sources(root):
        with open(os.path.join(root, path), encoding="utf-8") as f:
            edges[path] = [quoted or angled for quoted, angled in INCLUDE.findall(f.read())]
        for target in edges[path]:
            faults.extend(edge_faults(path, target, root))
    faults += ["circle: " + c for c in circles(edges)]
    print("\n".join(faults) if faults else f"{len(edges)} files: no edge outside the house, no circle")
    return 1 if faults or not edges else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
