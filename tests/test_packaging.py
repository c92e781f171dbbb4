"""The wheel: conf/ is inside, and it runs from a directory that knows nothing of this one."""

import os
import subprocess
import sys
import zipfile

from tests.cli import REPOSITORY


def test_a_built_wheel_runs_from_an_unrelated_directory(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("dcexp-*.whl")
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(installed)
    shipped = {name.removeprefix("dcexp/") for name in names if name.startswith("dcexp/conf/")}
    assert shipped == {str(p.relative_to(REPOSITORY)) for p in (REPOSITORY / "conf").rglob("*.yaml")}
    assert "dcexp/models/ViT-tiny-8.json" in names
    env = {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "160"}
    code = "import dcexp.cli; print(dcexp.cli.CONF); import sys; sys.argv = ['dcexp', 'plan']; dcexp.cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=elsewhere, env=env, capture_output=True, text=True, check=True
    )
    assert str(installed / "dcexp/conf") in done.stdout and "400 steps" in done.stdout


def test_the_constraints_are_plain_pins():
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) > 50
    assert all(name and version and "/" not in line for line in pins for name, _, version in [line.partition("==")])
