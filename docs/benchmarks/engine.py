#!/usr/bin/env python3
"""Measures the engine: a run with nothing to do, hashing, overhead of small stages, a plan of many, many images.

    python3 docs/benchmarks/engine.py PROGRAM FOLDER [--only no-op|hashing|many|images] [--dvc DVC] [--snakemake SNAKEMAKE] [--b3sum B3SUM]

PROGRAM is a release build of orandflow (`--no-default-features` will do). FOLDER takes 1.7 GB of made-up photographs, once, and is
used again. Peers (DVC, Snakemake, b3sum) that are neither named nor in the path are left out, with a line that says so. Each figure
is the best and the median of several runs, one program after the other in each round, so that a busy machine is busy for all of them.
"""
import argparse
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import time

FILES = 17125
STAGES = 12


def photographs(folder):
    images = folder / "data" / "img"
    images.mkdir(parents=True, exist_ok=True)
    if not (images / f"{FILES - 1:06d}.jpg").exists():
        source = random.Random(1)
        blob = source.randbytes(1 << 20)
        for index in range(FILES):
            at = source.randrange(1 << 19)
            (images / f"{index:06d}.jpg").write_bytes(index.to_bytes(4, "big") + blob[at : at + 100_000])
    return images


def timed(command, folder, expect=0):
    """Returns wall and processor seconds and peak memory in MiB of one run."""
    clock = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - clock
    assert os.waitstatus_to_exitcode(status) == expect, command
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def side_by_side(commands, rounds):
    """Runs every command in every round; returns its wall times, processor times and peak memory."""
    results = {name: [] for name in commands}
    for _ in range(rounds):
        for name, (command, folder, prepare) in commands.items():
            if prepare:
                prepare()
            results[name].append(timed(command, folder))
    return results


def show(title, results):
    print(f"\n{title}")
    for name, runs in results.items():
        walls = [run[0] for run in runs]
        print(
            f"  {name:<28} best {min(walls) * 1000:9.1f} ms   median {statistics.median(walls) * 1000:9.1f} ms   "
            f"processor, best {min(run[1] for run in runs) * 1000:9.1f} ms   memory {max(run[2] for run in runs):7.0f} MiB"
        )


def ratios(results, own, ratio, title):
    """Compares with each peer round by round, as what else the machine does changes with time."""
    for peer, runs in results.items():
        if peer != own:
            each = sorted(ratio(mine[0], theirs[0]) for mine, theirs in zip(results[own], runs))
            middle, name = statistics.median(each), title.format(own=own, peer=peer)
            print(f"  {name}: {middle:.2f} at the median of {len(each)} ratios, {each[0]:.2f} to {each[-1]:.2f}")


def orandflow_chain(folder):
    folder.mkdir(exist_ok=True)
    text = '[pipeline]\nname = "noop"\n[stages.s0]\nkind = "debug.items"\nfolder = "../data/img"\ndigests = true\n'
    for index in range(1, STAGES):
        text += f'[stages.s{index}]\nkind = "debug.copy"\nsuffix = "{index}"\ninputs = {{ a = "s{index - 1}" }}\n'
    (folder / "pipeline.toml").write_text(text)


def dvc_chain(folder, dvc):
    folder.mkdir(exist_ok=True)
    if not (folder / "data").exists():
        (folder / "data").mkdir()
        # DVC wants the data below its own folder; hard links cost nothing.
        shutil.copytree(folder.parent / "data" / "img", folder / "data" / "img", copy_function=os.link)
    lines, params = ["stages:"], []
    for index in range(STAGES):
        dep = "data/img" if index == 0 else f"o{index - 1}.txt"
        lines += [f"  s{index}:", f"    cmd: echo s{index} > o{index}.txt", f"    deps: [{dep}]"]
        lines += [f"    params: [p{index}]", f"    outs: [o{index}.txt]"]
        params.append(f"p{index}: 1")
    (folder / "dvc.yaml").write_text("\n".join(lines) + "\n")
    (folder / "params.yaml").write_text("\n".join(params) + "\n")
    if not (folder / ".dvc").exists():
        subprocess.run([dvc, "init", "--no-scm", "-q"], cwd=folder, check=True)
        subprocess.run([dvc, "config", "core.analytics", "false"], cwd=folder, check=True)
    subprocess.run([dvc, "repro", "-q"], cwd=folder, check=True)


def snakemake_chain(folder, snakemake):
    folder.mkdir(exist_ok=True)
    text = 'rule all:\n    input: "o11.txt"\n'
    text += f'IMAGES = [f"../data/img/{{i:06d}}.jpg" for i in range({FILES})]\n'
    text += 'rule s0:\n    input: IMAGES\n    output: "o0.txt"\n    shell: "echo s0 > {output}"\n'
    for index in range(1, STAGES):
        text += f'rule s{index}:\n    input: "o{index - 1}.txt"\n    output: "o{index}.txt"\n'
        text += f'    shell: "echo s{index} > {{output}}"\n'
    (folder / "Snakefile").write_text(text)
    subprocess.run([snakemake, "-q", "all", "-c1"], cwd=folder, check=True, capture_output=True)


def no_op(args, folder):
    orandflow_chain(folder / "orandflow")
    subprocess.run([args.program, "run", "pipeline.toml"], cwd=folder / "orandflow", check=True, capture_output=True)
    # Files that were written a moment ago are hashed once more.
    subprocess.run([args.program, "run", "pipeline.toml"], cwd=folder / "orandflow", check=True, capture_output=True)
    commands = {"orandflow run": ([args.program, "run", "pipeline.toml"], folder / "orandflow", None)}
    if args.dvc:
        dvc_chain(folder / "dvc", args.dvc)
        commands["dvc repro"] = ([args.dvc, "repro", "-q"], folder / "dvc", None)
    if args.snakemake:
        snakemake_chain(folder / "snakemake", args.snakemake)
        commands["snakemake"] = ([args.snakemake, "-q", "all", "-c1"], folder / "snakemake", None)
    results = side_by_side(commands, args.rounds)
    show(f"nothing to do, {STAGES} stages over {FILES} files", results)
    ratios(results, "orandflow run", lambda own, peer: peer / own, "{peer} / {own}")


def hashing(args, folder):
    """A plan hashes all files; its memory of them is taken away before each round."""
    orandflow_chain(folder / "orandflow")
    memory = folder / "orandflow" / "fresh"
    forget = lambda: shutil.rmtree(memory, ignore_errors=True)
    command = [args.program, "plan", "pipeline.toml", "--cache", "fresh"]
    commands = {"orandflow plan, first": (command, folder / "orandflow", forget)}
    if args.b3sum:
        names = folder / "names.txt"
        names.write_text("\n".join(f"data/img/{index:06d}.jpg" for index in range(FILES)))
        shell = f"xargs -d '\\n' {args.b3sum} < names.txt > /dev/null"
        commands["b3sum"] = (["sh", "-c", shell], folder, None)
        shell = f"xargs -d '\\n' -P {os.cpu_count()} -n 2000 {args.b3sum} --num-threads 1 < names.txt > /dev/null"
        commands[f"b3sum, {os.cpu_count()} at once"] = (["sh", "-c", shell], folder, None)
    results = side_by_side(commands, args.rounds)
    show(f"hashing {FILES} files of 100 kB, in memory already", results)
    ratios(results, "orandflow plan, first", lambda own, peer: own / peer, "{own} / {peer}")
    forget()


def many_stages(args, folder):
    bench = folder / "many"
    bench.mkdir(parents=True, exist_ok=True)
    for count in (1000, 10_000):
        text = '[pipeline]\nname = "many"\n' + "".join(
            f'[stages.s{index}]\nkind = "debug.concat"\ntext = "{index}"\n' for index in range(count)
        )
        (bench / f"{count}.toml").write_text(text)
    forget = lambda: shutil.rmtree(bench / "cache", ignore_errors=True)
    run = ([args.program, "run", "1000.toml", "--jobs", "2"], bench, forget)
    results = side_by_side({"orandflow run, 1,000 stages": run}, 3)
    show("1,000 trivial stages, all stores included, --jobs 2", results)
    best = min(result[0] for result in results["orandflow run, 1,000 stages"])
    print(f"  {best:.3f} ms a stage at best")
    forget()
    plan = ([args.program, "plan", "10000.toml"], bench, None)
    show("plan of 10,000 stages", side_by_side({"orandflow plan": plan}, 3))


def many_images(args, folder):
    """A set of 100,000 images, small ones, as the engine looks at names, digests and shards alone."""
    bench = folder / "images"
    data = bench / "data"
    data.mkdir(parents=True, exist_ok=True)
    for index in range(100_000):
        path = data / f"{index:06d}.jpg"
        if not path.exists():
            path.write_bytes(index.to_bytes(4, "big") * 25)
    text = '[pipeline]\nname = "images"\n[stages.set]\nkind = "debug.items"\nfolder = "data"\ndigests = true\n'
    for index, source in enumerate(["set", "s0", "s1"]):
        text += f'[stages.s{index}]\nkind = "debug.copy"\nsuffix = "{index}"\ninputs = {{ a = "{source}" }}\n'
    (bench / "pipeline.toml").write_text(text)
    shutil.rmtree(bench / "cache", ignore_errors=True)
    run = ([args.program, "run", "pipeline.toml", "--jobs", "2"], bench, None)
    show("a set of 100,000 images and three stages on it: the first run", side_by_side({"orandflow run": run}, 1))
    # Files that were written a moment ago are hashed once more.
    timed(*run[:2])
    show("the same with nothing to do", side_by_side({"orandflow run": run}, args.rounds))
    (data / "050000.jpg").write_bytes(os.urandom(100))
    show("the same with one image that changed", side_by_side({"orandflow run": run}, 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=lambda path: str(pathlib.Path(path).resolve()))
    parser.add_argument("folder", type=pathlib.Path)
    for peer in ("dvc", "snakemake", "b3sum"):
        parser.add_argument(f"--{peer}", default=shutil.which(peer), help="where it is; without this the one in the path, if any")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=["many", "images", "no-op", "hashing"], help="this part alone")
    args = parser.parse_args()
    for peer in ("dvc", "snakemake", "b3sum"):
        if not getattr(args, peer):
            print(f"{peer} is left out: it is not in the path")
    folder = args.folder.resolve()
    if args.only not in ("many", "images"):
        photographs(folder)
    parts = {"many": many_stages, "images": many_images, "no-op": no_op, "hashing": hashing}
    for name, part in parts.items():
        if args.only in (None, name):
            part(args, folder)


main()
