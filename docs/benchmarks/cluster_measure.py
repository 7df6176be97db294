#!/usr/bin/env python3
"""Counts what jobs of `--executor slurm` ask of the file system, beside what cluster.py takes for it. Slurm is not needed.

    python3 docs/benchmarks/cluster_measure.py PROGRAM [--items 190000]

PROGRAM is any build of orandflow; `--no-default-features` will do. strace must be there. Chains of `debug.copy` over small files
are run up to the last stage but one; the jobs of the last are then started by hand, the first and the last of them under strace. With
`--items` time and memory of a job of so many items are measured as well, without strace.
"""

import argparse
import collections
import os
import pathlib
import re
import subprocess
import tempfile
import time

import cluster

CALLS = (
    "openat,newfstatat,statx,access,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,getdents64,utimensat"
)
CALL = re.compile(r"^\d+ +(\w+)\((.*?)(?:\) += (-?\d+).*| <unfinished \.\.\.>)$")
# What the coordinator calls: sbatch answers a number, nobody is in the queue.
SLURM = {"sbatch": "echo 1", "squeue": "", "sacct": "", "scancel": ""}


class Bench:
    """A chain of so many stages over so many items, in an empty folder, with a Slurm that starts nothing."""

    def __init__(self, program, folder, items, depth, parts):
        self.program, self.folder, self.stage, self.parts = program, folder, f"s{depth}", parts
        self.items = folder / "items"
        self.items.mkdir(parents=True)
        an_hour_ago = time.time() - 3600
        for index in range(items):
            path = self.items / f"2008_{index:07d}.txt"
            path.write_text(str(index))
            os.utime(path, (an_hour_ago, an_hour_ago))
        # Files are remembered when nothing about them has changed for two seconds.
        time.sleep(3)
        for name, answer in SLURM.items():
            (folder / "bin").mkdir(exist_ok=True)
            (folder / "bin" / name).write_text(f"#!/bin/sh\n{answer}\n")
            (folder / "bin" / name).chmod(0o755)
        self.environment = dict(os.environ, PATH=f"{folder}/bin:{os.environ['PATH']}", SLURM_CPUS_PER_TASK="1")
        (folder / "profile.toml").write_text(f"array = {parts}\nshards = 1\n")
        for name, last in (("above.toml", depth - 1), ("chain.toml", depth)):
            text = '[pipeline]\nname = "chain"\n[stages.s0]\nkind = "debug.items"\nfolder = "items"\n'
            for stage in range(1, last + 1):
                text += f'[stages.s{stage}]\nkind = "debug.copy"\nsuffix = "{stage}"\ninputs = {{ a = "s{stage - 1}" }}\n'
            (folder / name).write_text(text)
        self.call([program, "run", "above.toml", "--cache", str(folder / "cache")])
        slurm = ["--executor", "slurm", "--profile", "profile.toml", "--detach", "--cache", str(folder / "cache")]
        subprocess.run([program, "run", "chain.toml", *slurm], cwd=folder, env=self.environment, capture_output=True)
        self.plan = next((folder / "cache" / "runs").glob("*/slurm/plan.json"))

    def call(self, command):
        """Returns processor seconds and peak memory in bytes."""
        process = subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, command
        return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024

    def job(self, part):
        return [self.program, "exec", str(self.plan), "--stage", self.stage, "--part", str(part), "--parts", str(self.parts)]

    def count(self, part):
        """Runs a job; returns its operations on names below the cache and the data, by call."""
        log = self.folder / "strace.log"
        self.call(["strace", "-f", "-y", "-s", "0", "-e", f"trace={CALLS}", "-o", str(log), *self.job(part)])
        counted = collections.Counter()
        for line in log.read_text(errors="replace").splitlines():
            call = CALL.match(line)
            # An empty path asks for a file that is open.
            if call and any(str(place) in call[2] for place in (self.folder / "cache", self.items)) and '""' not in call[2]:
                counted[call[1]] += 1
        return counted

    def sizes(self):
        """Returns bytes of the largest record, of a typical one, and of the largest manifest, and the number of files kept."""
        store = self.folder / "cache" / "v1"
        records = sorted(path.stat().st_size for path in store.glob("ac/*/*.json"))
        blobs = [path for path in store.glob("cas/*/*")]
        manifest = max(path.stat().st_size for path in blobs if path.read_bytes()[:10] == b'{"buckets"')
        return records[-1], records[len(records) // 2], manifest, len(records) + len(blobs)


def operations(program):
    known = cluster.Site()
    print("items  shards  stages above  jobs  first job  as cluster.py has it  last job  as cluster.py has it")
    for items, depth, parts in ((2900, 2, 4), (2900, 5, 4), (2900, 5, 16), (11_000, 2, 16)):
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(program, pathlib.Path(folder), items, depth, parts)
            first = bench.count(0)
            for part in range(1, parts - 1):
                bench.call(bench.job(part))
            last = bench.count(parts - 1)
        shards = cluster.shards_of(items)
        own = shards / parts
        expected = known.ops_whole + own * (known.ops_shard + 1)
        whole = expected + (shards - own) * known.ops_last
        print(f"{items:5}  {shards:6}  {depth:12}  {parts:4}  {first.total():9}  {expected:20.0f}  {last.total():8}  {whole:20.0f}")
        print("       " + ", ".join(f"{call} {count}" for call, count in first.most_common()))


def large(program, items):
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(program, pathlib.Path(folder), items, 3, 64)
        seconds, memory = bench.call(bench.job(0))
        again, _ = bench.call(bench.job(0))
        record, shard, manifest, files = bench.sizes()
    shards = cluster.shards_of(items)
    print(f"{items} items, {shards} shards: a job takes {seconds:.2f} s of a core, {again:.2f} s if its part is there", end="")
    print(f", and {memory / 2**20:.0f} MiB")
    print(f"bytes: {record / shards:.0f} of a stage's record and {manifest / shards:.0f} of its manifest per shard", end="")
    print(f", {shard} of a shard's record")
    print(f"files: {files / shards / 3:.2f} per shard of each of 3 stages")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=lambda path: str(pathlib.Path(path).resolve()))
    parser.add_argument("--items", type=int, help="of the job that is timed")
    args = parser.parse_args()
    operations(args.program)
    if args.items:
        large(args.program, args.items)


main()
