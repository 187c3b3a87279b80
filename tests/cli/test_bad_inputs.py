"""What bad input says: one line that names the thing, status 2, nothing changed.

A row is a command line and a phrase of its error. All run in this process, in one
folder that holds what they ask for, good and spoiled; see `make_world`.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.bad_world import make_world
from tests.support.program import Program


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the command lines name."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_world()
    return folder


QUICK = "--set network.arch=caffenet32 --set solver.iterations=6 --set solver.batch=8"
BASE = f"train-base --task A --data tiny.h5 {QUICK}"
MOVE = f"transfer --from A --n 3 --data tiny.h5 {QUICK}"
SHOW = "data show tiny.h5 -o sheet.png"
MAKE = "data prepare good -o new.h5 -j 1"
DEMO = "data demo -o new.h5 -j 1"
PLAN = "study plan demo --data tiny.h5 -o new"

ROWS: dict[str, list[tuple[str, str]]] = {
    "commands": [
        ("fly", "No such command 'fly'"),
        ("data fly", "No such command 'fly'"),
        ("--speed", "No such option '--speed'"),
        ("train-base", "Missing option '--task'"),
        ("predict", "Missing argument 'RUN'"),
        ("predict run", "Missing argument 'IMAGE...'"),
        ("curves -o a.png", "Missing argument 'RUN...'"),
        ("study plan", "Missing argument 'PLAN'"),
        (f"{BASE} extra", "unexpected extra argument"),
        (f"{BASE} --speed", "No such option '--speed'"),
    ],
    "stores": [
        (f"{BASE} --data gone.h5", "gone.h5: no such file; make one with"),
        (f"{BASE} --data truncated.h5", "truncated.h5: not a readable HDF5 file"),
        (f"{BASE} --data notes.txt", "notes.txt: not a readable HDF5 file"),
        (f"{BASE} --data version.h5", "format version 99, this minicnn reads 1"),
        (f"{BASE} --data incomplete.h5", "incomplete.h5: not complete"),
        (f"{BASE} --data other.h5", "an HDF5 file, but no minicnn store"),
        (f"{BASE} --data part.h5", "a part is missing"),
        (f"{BASE} --data label.h5", "row 5 has label 77 of 8 classes"),
        (f"{BASE} --data unheld.h5", "no validation image of this task"),
        (f"{BASE} --data untrained.h5", "no training image of this task"),
        (f"{BASE} --data good", "is a directory"),
        ("data info gone.h5", "gone.h5: no such file"),
        ("data info label.h5", "'minicnn data verify label.h5' lists them"),
        ("data info label.h5 --json", "row 5 has label 77"),
        ("data verify truncated.h5", "truncated"),
    ],
    "tasks and splits": [
        (f"{BASE} --task C", "task 'C': split random-0 has A and B"),
        (f"{BASE} --task all --split random-0", "choose one, or add --split all"),
        (f"{BASE} --split all", "task 'A': split all has all"),
        (f"{BASE} --split odd-1", "split 'odd-1': unknown"),
        (f"{BASE} --split random-01", "split 'random-01': unknown"),
        (f"{BASE} --split random-4294967296", "must be below 2^32"),
        (f"{BASE} --split file:", "split 'file:': unknown"),
        (f"{BASE} --split file:good", "good: cannot be read (Is a directory)"),
        (f"{BASE} --split file:cut.toml", "cut.toml: not valid TOML"),
        (f"{BASE} --split file:unknown.toml", "class 'dog': neither a class id nor"),
        (f"{BASE} --split file:twice.toml", "'c1' is listed in A and again in B"),
        (f"{BASE} --split file:half.toml", "B is not a list of classes"),
        (f"{BASE} --split file:text.toml", "A is not a list of classes"),
        (f"{BASE} --split file:number.toml", "3 in B is not text"),
        (f"{BASE} --split file:three.toml", "unknown key C"),
        (f"{BASE} --split file:single.toml", "--split all --task all takes all 8"),
        (
            f"{MOVE} --from random --to A --split file:single.toml",
            "--split all --to all takes all 8",
        ),
        (f"{BASE} --split natural-manmade --groups groups.toml", "again in manmade"),
        (f"{BASE} --groups good", "is a directory"),
        (
            "splits --classes ilsvrc2012 --data tiny.h5 --task A",
            "--data tiny.h5 and --classes ilsvrc2012: give one of them",
        ),
        ("splits --classes mine --task A", "'mine' is not 'ilsvrc2012'"),
        ("splits --data tiny.h5 --task Q", "task 'Q'"),
    ],
    "settings": [
        (f"{BASE} --recipe gone.toml", "gone.toml: cannot be read (No such file"),
        (f"{BASE} --recipe mine", "--recipe mine: unknown; built in are"),
        (f"{BASE} --recipe cut.toml", "cut.toml: not valid TOML"),
        (f"{BASE} --recipe key.toml", "unknown key solver.speed; known in solver"),
        (f"{BASE} --recipe type.toml", "solver.lr = 'x' must be of type float"),
        (f"{BASE} --recipe section.toml", "unknown section 'extra'"),
        (f"{BASE} --recipe flat.toml", "solver must be a section of values"),
        (f"{BASE} --set solver.lr", "--set solver.lr: write it as section.key=value"),
        (f"{BASE} --set lr=1", "--set lr=1: write it as section.key=value"),
        (f"{BASE} --set solver.rate=1", "unknown key solver.rate"),
        (f"{BASE} --set solvers.lr=1", "unknown section 'solvers'"),
        (f"{BASE} --set solver.lr=fast", "solver.lr = 'fast' must be of type float"),
        (f"{BASE} --set solver.lr=-1", "solver.lr = -1.0 must be at least 0"),
        (f"{BASE} --set solver.lr=nan", "solver.lr = nan must be a finite number"),
        (f"{BASE} --set solver.momentum=2", "solver.momentum = 2.0 must be below 1"),
        (f"{BASE} --set solver.decay=1", "solver.decay = 1.0 must be below 1"),
        (f"{BASE} --set solver.batch=0", "solver.batch = 0 must be at least 1"),
        (f"{BASE} --set solver.batch=1.5", "solver.batch = 1.5 must be of type int"),
        (f"{BASE} --set solver.iterations=0", "solver.iterations = 0 must be at least"),
        (f"{BASE} --set data.mirror=1", "data.mirror = 1 must be of type bool"),
        (f"{BASE} --set schedule.log_every=0", "schedule.log_every = 0 must be"),
        (f"{BASE} --set network.arch=vgg", "'vgg': unknown"),
        (f"{BASE} --set network.arch=caffenet", "36x36 are smaller than the network's"),
        (f"{BASE} --set network.outputs=2", "network.outputs 2: fewer than the 4"),
        (f"{BASE} --set network.precision=fp8", "'fp8'"),
        (f"{BASE} --set solver.layers.conv9.lr_mult=2", "layers.conv9: no such layer"),
        (f"{BASE} --seed -1", "--seed -1: must be 0 .. 2^32 - 1"),
        (f"{BASE} --seed 4294967296", "--seed 4294967296: must be 0"),
    ],
    "devices and room": [
        (f"{BASE} --device abacus", "--device abacus: unknown"),
        (f"{BASE} --device cpu:1", "--device cpu:1: unknown"),
        (f"{BASE} --device cuda:x", "--device cuda:x: unknown"),
        (f"{BASE} --threads 0", "--threads 0: must be at least 1"),
        (f"{BASE} --threads 9999", "--threads 9999: this process may use"),
        (f"{BASE} --set solver.batch=99999999", "batch of 99999999 images"),
        (f"{BASE} --runs runs-file", "is a file"),
        (f"{BASE} --runs runs-file/x", "runs-file/x/baseA: cannot be made"),
        (f"{BASE} --runs foreign", "foreign/baseA: neither empty nor a run folder"),
        (f"{BASE} --runs foreign --fresh", "so --fresh leaves it alone"),
        (f"{BASE} --runs runs", "made with other settings"),
    ],
    "transfer": [
        (f"{MOVE} --n 8", "--n 8: must be 1..7"),
        (f"{MOVE} --keep 5", "--keep 5 --n 3: must be together at most 7"),
        (f"{MOVE} --keep -1", "--keep -1: must be 0 or more"),
        (f"{MOVE} --keep 1 --finetune", "leave out one of the two"),
        (f"{MOVE} --finetune-after -1", "--finetune-after -1: must be 0 or more"),
        (f"{MOVE} --from random --keep 1", "give a base by --from A or --from B"),
        (f"{MOVE} --from Q", "Q: neither A, B, random or tiny-imagenet, nor a run"),
        (f"{MOVE} --from mine", "mine: no run folder (it has no config.toml)"),
        (f"{MOVE} --from notes.txt", "--from notes.txt: no safetensors file"),
        (f"{MOVE} --from unsaved", "unsaved: no checkpoint yet"),
        (f"{MOVE} --from run --data small.h5", "36x36 pixels, those of small.h5 are"),
        (f"{MOVE} --from run --to Q", "task 'Q'"),
        (f"{MOVE} --from other.safetensors", "tensor conv1.w: shape (4, 1, 1, 3) in"),
        (f"{MOVE} --from lacking.safetensors", "tensor conv1.w: missing from the"),
        (f"{MOVE} --from flat.safetensors", "tensor conv1.weight: shape (4, 3) in the"),
        (f"{MOVE} --from mean.safetensors", "its mean is (36, 36, 3), not (3,H,W)"),
        (f"{MOVE} --from odd.safetensors", "odd.safetensors: no safetensors file"),
        (f"{MOVE} --from alien", "layers 1..3 of its architecture caffenet64 are not"),
        (f"{MOVE} --from ''", "--from '': names no net; --from A copies from task A"),
        (f"{MOVE} --from all", "--to all learns the same classes"),
        (f"{MOVE} --to Q", "task 'Q'"),
        (f"{MOVE} --from random --finetune", "use 'minicnn train-base'"),
        (f"{MOVE} --split random-1", "missing; make it first: minicnn train-base"),
        (f"{MOVE} --runs runs", "runs/baseA: not finished; finish it first: minicnn"),
        (f"{MOVE} --runs foreign", "foreign/baseA: missing; make it first: minicnn"),
    ],
    "runs": [
        ("evaluate gone", "gone: no run folder (it has no config.toml)"),
        ("evaluate homeless", "its store gone.h5 is gone; say where it is by --data"),
        ("evaluate run --data small.h5", "its images are 24x24, but run was trained"),
        ("evaluate run --data gone.h5", "gone.h5: no such file"),
        ("evaluate unsaved", "unsaved: no checkpoint yet"),
        ("predict run gone.jpg", "image gone.jpg: cannot be read (No such file"),
        ("predict run notes.txt", "image notes.txt: not an image that can be read"),
        ("predict run large.png", "10000x9000 pixels, over the limit of 89478485"),
        ("predict run huge.png", "300000000 pixels, over the limit of 89478485"),
        ("predict run photo.jpg --top 0", "--top 0: must be at least 1"),
        ("filters gone -o a.png", "gone: no run folder"),
        ("filters run -o a.bmp", "a.bmp: unknown kind of picture .bmp"),
        ("filters run -o gone/a.png", "gone/a.png: folder gone does not exist"),
        ("curves run -o a.png", "run: no metrics yet"),
        ("curves runs/baseA -o a.jpg", "a.jpg: unknown kind of picture .jpg"),
        ("curves runs/baseA gone -o a.png", "gone: no run folder"),
        ("export run -o net.pt", "net.pt: a safetensors file"),
        ("export run -o gone/net.safetensors", "folder gone does not exist"),
        (
            "export run -o net.safetensors --to onnxx",
            "'onnxx' is not one of 'torch', 'onnx'",
        ),
        ("export run -o net.pb --to onnx", "such as net.onnx"),
        ("features run photo.jpg --layer fc6 -o gone/a.h5", "folder gone does not"),
        ("features run photo.jpg --layer fc6 -o a.npz", "end the name in .h5 or"),
        (
            "features run photo.jpg --layer fc9 -o a.h5",
            "--layer fc9: not in caffenet32",
        ),
    ],
    "sources": [
        ("data prepare gone -o new.h5", "source gone: no such file or folder"),
        ("data prepare notes.txt -o new.h5", "not a folder, a zip or a tar"),
        ("data prepare cut.tar -o new.h5", "damaged or truncated archive"),
        ("data prepare nothing -o new.h5", "nothing recognised: it is empty"),
        ("data prepare flat -o new.h5", "2 images, no class folders"),
        ("data prepare mine -o new.h5", "0 images, no class folders"),
        ("data prepare one-class -o new.h5", "3 images in the one folder cat"),
        ("data prepare one-of-two -o new.h5", "only class a has images; at least 2"),
        ("data prepare nested -o new.h5", "holds folders"),
        ("data prepare clash -o new.h5", "differ by case alone"),
        ("data prepare stray -o new.h5", "outside any class folder"),
        ("data prepare no-images -o new.h5", "holds no images"),
        ("data prepare no-val -o new.h5", "no val/"),
        ("data prepare beside -o new.h5", "a class or not"),
        ("data prepare lonely -o new.h5", "class a has 1 image, none can be held out"),
        ("data prepare loop -o new.h5", "reached twice through links"),
        ("data prepare parts -o new.h5 --val-fraction 0.5", "--val-fraction"),
        (f"{MAKE} --size 0", "0 is not in the range"),
        (f"{MAKE} --resize crop", "'crop' is not one of 'warp', 'short-center'"),
        (f"{MAKE} --val-fraction 1.5", "--val-fraction 1.5"),
        (f"{MAKE} --jobs 0", "0 is not in the range"),
        (f"{MAKE} --groups gone.toml", "gone.toml: cannot be read"),
        (f"{MAKE} --groups dogs.toml", "class 'dog': neither"),
        (f"{MAKE} --groups lone.toml", "manmade is not a list of classes"),
        ("data prepare good -o gone/new.h5", "folder gone does not exist; make it by"),
        ("data prepare good -o good", "is a directory"),
        ("data prepare good -o /dev/null", "/dev/null: is no regular file"),
        ("data prepare good -o tiny.h5 --size 36", "--fresh replaces it"),
        ("data prepare good -o notes.txt", "--fresh replaces it"),
        (f"{DEMO} --size 8", "demo size 8: give one from 16 to 256"),
        (f"{DEMO} --seed -1", "demo seed -1"),
        (f"{DEMO} --seed 9223372036854775808", "give one from 0 to 2^63 - 1"),
        ("data demo -o notes.txt", "--fresh replaces it"),
        ("data demo -o notes.txt/new.h5", "notes.txt: cannot be made"),
    ],
    "sheets": [
        (f"{SHOW} --classes dog", "class 'dog': neither a class id nor a name"),
        (f"{SHOW} --classes 8", "class '8': neither a class id nor a name"),
        (f"{SHOW} --part test", "'test' is not one of 'train', 'val'"),
        (f"{SHOW} --rows 0", "0 is not in the range"),
        ("data show unheld.h5 --part val -o a.png", "no val images of these classes"),
        ("data show label.h5 -o a.png", "row 5 has label 77"),
        ("data show tiny.h5 -o a.xyz", "a.xyz: unknown ending; use .png"),
        ("data show tiny.h5 -o a", "a: unknown ending; use .png"),
    ],
    "start": [
        ("start", "Missing argument 'FOLDER'"),
        ("start gone", "'gone' does not exist"),
        ("start good --from gone", "--from gone: neither A, B, random or tiny-"),
        (
            "start good --from A",
            "--from A: a net of a split's task; 'minicnn start' goes",
        ),
        ("start good --from notes.txt", "--from notes.txt: no safetensors file"),
        ("start good --threads 0", "--threads 0: must be at least 1"),
    ],
    "studies": [
        (f"{PLAN} --only Z9Z", "--only Z9Z: matches no net of the plan"),
        (f"{PLAN} --set solver.speed=1", "unknown key solver.speed"),
        (f"{PLAN} --workers 0", "--workers 0: must be at least 1"),
        (f"{PLAN} --rate 0", "--rate 0"),
        (f"{PLAN} --data gone.h5", "gone.h5: no such file"),
        ("study plan mine --data tiny.h5", "plan mine: unknown; built in are"),
        ("study plan gone.toml", "gone.toml: cannot be read"),
        ("study plan plan-empty.toml", "no nets; list them under [[nets]]"),
        ("study plan plan-name.toml", "name = 'a/b' must be a folder's name"),
        ("study plan plan-recipe.toml", "recipe is missing; name one"),
        ("study plan plan-key.toml", "unknown key 'colour'"),
        ("study plan plan-kind.toml", "'based' in treatments; choose of"),
        ("study run demo --data tiny.h5 -o mine", "neither empty nor a study folder"),
        ("study run demo --data tiny.h5 -o new --jobs 0", "--jobs 0: must be at least"),
        ("study run demo --data tiny.h5 -o new --device abacus", "--device abacus"),
        ("study status gone", "gone: no study folder (it has no plan.toml)"),
        ("study status study", "study/plan.toml: damaged"),
    ],
    "reports and proofs": [
        ("report -o page", "give a study folder, as 'minicnn study run' makes them"),
        ("report study --published -o page", "not both"),
        ("report gone -o page", "gone: no study folder"),
        ("report --published -o notes.txt", "is a file"),
        ("gradcheck --device cpu --op convolution", "--op convolution: unknown"),
        ("bench --device cpu --against jax", "'jax' is not 'torch'"),
        ("bench --device cpu --precision fp8", "'fp8'"),
    ],
}
CASES = [
    pytest.param(line, phrase, id=f"{topic}: {line}".replace(f" {QUICK}", ""))
    for topic, rows in ROWS.items()
    for line, phrase in rows
]


def contents(folder: Path) -> dict[str, int]:
    """Every file and folder below, with its time of change."""
    found = (path for path in folder.rglob("*"))
    return {str(path): path.lstat().st_mtime_ns for path in found if path.is_file()}


@pytest.mark.parametrize(("line", "phrase"), CASES)
def test_bad_input_is_one_line_and_status_2(
    line: str, phrase: str, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    before = contents(world)
    done = CliRunner().invoke(Program("minicnn"), shlex.split(line))
    assert phrase in done.stderr
    assert done.exit_code == 2
    assert done.stderr.startswith("minicnn: error: ")
    assert done.stderr.count("\n") == 1
    assert not done.stdout
    assert contents(world) == before
