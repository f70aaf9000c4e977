#!/usr/bin/env python3
"""Compiles kernels/cuda/*.cu to kernels/ptx/*.ptx with NVRTC, and checks what is there. The same for the planted faults
in kernels/softcuda/tests/faults/, whose PTX lies beside them and names the lines that it comes from.

    scripts/make-ptx.py              compile every source whose PTX is missing or stale
    scripts/make-ptx.py matmul ...   only these; --force compiles even what is fresh
    scripts/make-ptx.py --check      compile nothing; fail if a PTX file is missing or stale
    scripts/make-ptx.py --ptxas      assemble every PTX file for sm_80 and sm_90, print registers, shared memory
                                     and spills a kernel as a Markdown table, and fail on spills

The PTX is checked in, so that neither building nor running tilegrad needs a CUDA toolkit. Its first lines record what
it was made from: the SHA-256 over flags, compiler version, source and the headers of ours that it includes.
`tests/ptx.rs` computes the same hash. NVRTC 12.0 is pinned because its PTX (`.version 8.0`) loads on every driver of
CUDA 12; a newer compiler writes PTX that such a driver refuses.
"""

import argparse
import ctypes
import hashlib
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = ROOT / "kernels" / "cuda"
PTX = ROOT / "kernels" / "ptx"
FAULTS = ROOT / "kernels" / "softcuda" / "tests" / "faults"
NVRTC_VERSION = "12.0.140"
NVCC_VERSION = "12.9.86"
FLAGS = ["--gpu-architecture=compute_80", "--std=c++17"]
LINES = "--generate-line-info"
ARCHITECTURES = ["sm_80", "sm_90"]


def fail(message):
    sys.exit(f"make-ptx: {message}")


def wheel(package, version, relative):
    """Path of a file in a wheel of NVIDIA's, which must have the pinned version."""
    from importlib import metadata

    try:
        found = metadata.version(package)
    except metadata.PackageNotFoundError:
        found = "nothing"
    if found != version:
        fail(f"needs {package} {version}, found {found}; install it:\n"
             f"    {sys.executable} -m pip install {package}=={version}")
    return pathlib.Path(metadata.distribution(package).locate_file(relative))


def flags(source):
    return [*FLAGS, LINES] if source.parent == FAULTS else FLAGS


def target(source):
    folder = FAULTS if source.parent == FAULTS else PTX
    return folder / f"{source.stem}.ptx"


def inputs(source):
    """The source and every header of ours that it includes, directly or not, in order of first mention."""
    found, queue = [], [source]
    while queue:
        path = queue.pop(0)
        if path in found:
            continue
        if not path.exists():
            fail(f"{path.name} is included, but kernels/cuda/ has no such file")
        found.append(path)
        queue += [SOURCES / name for name in re.findall(r'^#include "([^"]+)"', path.read_text("utf-8"), re.M)]
    return found


def digest(source):
    """SHA-256 of the flags, the compiler's version, and each input's name, length and bytes."""
    hash = hashlib.sha256(f"{' '.join(flags(source))}\nnvrtc {NVRTC_VERSION}\n".encode())
    for path in inputs(source):
        data = path.read_bytes()
        hash.update(f"{path.name} {len(data)}\n".encode())
        hash.update(data)
    return hash.hexdigest()


def header(source):
    return (f"// {source.name} compiled by scripts/make-ptx.py: edit that, not this.\n"
            f"// sha256 {digest(source)}\n"
            f"// nvrtc {NVRTC_VERSION} {' '.join(flags(source))}\n")


class Nvrtc:
    """NVRTC's C interface, as far as it is needed here."""

    def __init__(self):
        package = "nvidia-cuda-nvrtc-cu12"
        path = wheel(package, NVRTC_VERSION, "nvidia/cuda_nvrtc/lib/libnvrtc.so.12")
        # It opens its builtins by their bare name: they must be loaded before.
        ctypes.CDLL(str(path.with_name("libnvrtc-builtins.so.12.0")), mode=ctypes.RTLD_GLOBAL)
        self.library = ctypes.CDLL(str(path))
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def call(self, name, *arguments):
        code = getattr(self.library, name)(*arguments)
        return None if code == 0 else self.library.nvrtcGetErrorString(code).decode()

    def text(self, kind, program):
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{kind}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.call(f"nvrtcGet{kind}", program, buffer)
        return buffer.value.decode()

    def compile(self, source):
        """PTX of one source."""
        program = ctypes.c_void_p()
        error = self.call("nvrtcCreateProgram", ctypes.byref(program), source.read_bytes(), source.name.encode(),
                          0, None, None)
        if error:
            fail(f"{source.name}: {error}")
        options = [*flags(source), f"--include-path={SOURCES}"]
        array = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
        error = self.call("nvrtcCompileProgram", program, len(options), array)
        log = self.text("ProgramLog", program).strip()
        if error or log:  # a warning is an error
            fail(f"{source.name}: {error or 'warnings'}\n{log}")
        ptx = self.text("PTX", program)
        self.call("nvrtcDestroyProgram", ctypes.byref(program))
        return ptx


def is_fresh(source):
    ptx = target(source)
    return ptx.exists() and ptx.read_text("utf-8").startswith(header(source))


def compile_all(sources, force):
    stale = [s for s in sources if force or not is_fresh(s)]
    if not stale:
        print("every PTX file is fresh")
        return
    nvrtc = Nvrtc()
    PTX.mkdir(exist_ok=True)
    for source in stale:
        ptx = nvrtc.compile(source)
        # The compiler's own banner names its build and says nothing more; NVRTC 12.0 defines 38 constants of
        # <nv/target> in every module, to which nothing refers.
        body = ptx[ptx.index(".version"):].rstrip("\0\n ") + "\n"
        body = re.sub(r"^\.global .*_INTERNAL_\w*nv6target.*;\n", "", body, flags=re.M)
        assert "nv6target" not in body, f"{source.name}: a constant of <nv/target> is used after all"
        # Lines belong to a file wherever that lies.
        body = re.sub(r'^(\t\.file\s+\d+ )"[^"]*?([^"/]*)".*$', r'\1"\2"', body, flags=re.M)
        target(source).write_text(header(source) + body, "utf-8")
        print(f"{source.name}: {len(body)} bytes, {body.count('.entry ')} kernels")


def check(sources):
    stale = [s.name for s in sources if not is_fresh(s)]
    made = {target(s) for s in sources}
    orphans = [p.name for p in [*sorted(PTX.glob("*.ptx")), *sorted(FAULTS.glob("*.ptx"))] if p not in made]
    if stale:
        fail(f"PTX is missing or older than its source: {', '.join(stale)}; run scripts/make-ptx.py")
    if orphans:
        fail(f"PTX without a source: {', '.join(orphans)}")
    print(f"{len(sources)} PTX files are fresh")


def assemble(path, architecture, ptxas):
    """(kernel, registers, static shared bytes, spilled bytes) of each kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as out:
        run = subprocess.run([ptxas, f"-arch={architecture}", "-v", str(path), "-o", out.name],
                             capture_output=True, text=True)
    if run.returncode != 0:
        fail(f"{path.name} for {architecture}:\n{run.stderr}")
    rows, kernel, spills = [], None, 0
    for line in run.stderr.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = match[1]
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spills = int(match[1]) + int(match[2])
        elif match := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            rows.append((kernel, int(match[1]), int(shared[1]) if shared else 0, spills))
    return rows


def ptxas_table(sources):
    ptxas = wheel("nvidia-cuda-nvcc-cu12", NVCC_VERSION, "nvidia/cuda_nvcc/bin/ptxas")
    spilled = []
    print(f"Registers a thread, static shared memory a block and spilled bytes, by ptxas {NVCC_VERSION}.\n")
    print("| file | kernel | registers sm_80 | sm_90 | shared bytes | spilled bytes |\n|-|-|-:|-:|-:|-:|")
    for source in sources:
        path = target(source)
        old, new = ({row[0]: row[1:] for row in assemble(path, a, ptxas)} for a in ARCHITECTURES)
        for kernel in sorted(old):
            spills = old[kernel][2] + new[kernel][2]
            print(f"| {source.stem} | `{kernel}` | {old[kernel][0]} | {new[kernel][0]} | {old[kernel][1]} | {spills} |")
            spilled += [kernel] if spills else []
    if spilled:
        fail(f"registers are spilled by {', '.join(spilled)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="stems of sources; by default all")
    parser.add_argument("--force", action="store_true", help="compile what is fresh too")
    parser.add_argument("--check", action="store_true", help="compile nothing; fail if anything is stale")
    parser.add_argument("--ptxas", action="store_true", help="assemble all; fail on spills")
    arguments = parser.parse_args()
    sources = [*sorted(SOURCES.glob("*.cu")), *sorted(FAULTS.glob("*.cu"))]
    if arguments.families:
        known = {s.stem for s in sources}
        if unknown := set(arguments.families) - known:
            fail(f"no {sorted(unknown)[0]}.cu; there are {', '.join(sorted(known))}")
        sources = [s for s in sources if s.stem in arguments.families]
    if arguments.check:
        check(sources)
    elif arguments.ptxas:
        ptxas_table([s for s in sources if s.parent == SOURCES])
    else:
        compile_all(sources, arguments.force)


if __name__ == "__main__":
    main()
