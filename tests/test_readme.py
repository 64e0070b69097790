"""The README's code is executed, in order, as a reader would."""

import os
import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def test_every_block_runs(tmp_path: Path) -> None:
    (spec,), (data,) = blocks("yaml"), blocks("json")
    (tmp_path / "fruit.yaml").write_text(spec, encoding="utf-8")
    (tmp_path / "fruit.jsonl").write_text(data, encoding="utf-8")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for script in blocks("bash"):
        subprocess.run(["bash", "-euc", script], cwd=tmp_path, check=True, env=os.environ | {"PATH": path}, timeout=280)
    for script in blocks("python"):
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True, timeout=280)
        assert b"nan" not in done.stdout
