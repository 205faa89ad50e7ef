"""Programs of engines, faked: they record their arguments and answer, or fail, as scripted."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_PROGRAM = """#!{python} -SE
import json, os, subprocess, sys, time
folder = {folder!r}
words = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
with open(os.path.join(folder, "calls.jsonl"), "a") as file:
    file.write(json.dumps(words) + "\\n")
with open(os.path.join(folder, "script.json")) as file:
    script = json.load(file)
line = " ".join(words)
for number, (pattern, answers) in enumerate(script):
    if pattern not in line:
        continue
    path = os.path.join(folder, "asked_%d" % number)
    asked = os.path.getsize(path) if os.path.exists(path) else 0
    with open(path, "a") as file:
        file.write(".")
    answer = answers[min(asked, len(answers) - 1)]
    if answer.get("child"):
        with open(os.path.join(folder, "child"), "w") as file:
            file.write(str(subprocess.Popen(["sleep", "60"]).pid))
    time.sleep(answer.get("seconds", 0))
    out = answer.get("out", "")
    if "LAUNCH" in out:
        with open(os.path.join(folder, "calls.jsonl")) as file:
            labels = [word for call in file for word in json.loads(call) if "--labels=" in word]
        out = out.replace("LAUNCH", labels[-1].rpartition("=")[2])
    sys.stdout.write(out)
    sys.stderr.write(answer.get("err", ""))
    sys.exit(answer.get("status", 0))
"""


class FakePrograms:
    """A folder of programs, to be put first on the PATH.

    Args:
      folder: an empty one.
      names: of the programs.
      machines: how many answer when gcloud's ssh asks all whether the files are there and how the
        job has ended: `ok` and 0, unless scripted. As many as a v5e-64 has.
    """

    def __init__(self, folder: Path, names: Sequence[str], machines: int = 16):
        self.folder, self.machines = folder, machines
        for name in names:
            path = folder / name
            path.write_text(_PROGRAM.format(python=sys.executable, folder=str(folder)))
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        self.script()

    @property
    def path(self) -> str:
        """PATH with the programs first."""
        return f"{self.folder}{os.pathsep}{os.environ['PATH']}"

    def script(self, *answers: tuple[str, list[dict[str, Any]]]) -> None:
        """What to answer: of the first pair whose text is in the command line, one call after the
        other, the last again and again; commands without a pair succeed and say nothing.

        Answers have `status`, `out`, `err`, and `seconds` before them, and with `child` a child
        whose process id is left in the file `child`. LAUNCH in `out` stands for
        the id in the newest `--labels`.
        """
        well = (
            ("&& echo ok", [{"out": "ok\n" * self.machines}]),
            ("/status 2>/dev/null", [{"out": "0\n" * self.machines}]),
        )
        (self.folder / "script.json").write_text(json.dumps([*answers, *well]))

    def calls(self, text: str = "") -> list[list[str]]:
        """Arguments of all calls so far whose command line has this text."""
        path = self.folder / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [words for words in map(json.loads, lines) if text in " ".join(words)]
