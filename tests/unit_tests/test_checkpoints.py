from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from tfserve.errors import StorageError
from tfserve.training.checkpoints import Checkpoints, State
from tfserve.training.signals import Stop

FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))


def adam(model: torch.nn.Module) -> torch.optim.AdamW:
    parameters = list(model.parameters())
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=0.1,
    )


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
    model(inputs).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


class Saved:
    """A folder with the checkpoints of steps 1 to ``steps``, and what was saved last."""

    def __init__(self, folder: Path, steps: int, best: int = 1) -> None:
        self.checkpoints = Checkpoints(folder, "this run")
        self.model = network()
        self.optimizer = adam(self.model)
        self.states = [State()]
        for number in range(1, steps + 1):
            step(self.model, self.optimizer, number)
            state = State(number, number, [0.5, -0.25], min(best, number), 1, [{"step": number}])
            self.states.append(state)
            self.checkpoints.save(state, self.model, self.optimizer)

    def resumed(self) -> State:
        model = network(1)
        return self.checkpoints.resume(model, adam(model))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Checkpoints 1, 2 and 3, of which 1 is the best; tests take a copy."""
    return Saved(tmp_path_factory.mktemp("original") / "checkpoints", 3)


@pytest.fixture
def saved(original: Saved, tmp_path: Path) -> Saved:
    return _copied(original, tmp_path / "checkpoints")


def _copied(original: Saved, folder: Path) -> Saved:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original.checkpoints.folder, folder)
    copy = object.__new__(Saved)
    copy.__dict__.update(original.__dict__, checkpoints=Checkpoints(folder, "this run"))
    return copy


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- what is saved is what is resumed -----------------------------------------------------------


def test_a_folder_without_checkpoints_resumes_at_the_beginning(tmp_path: Path) -> None:
    model = network(1)
    state = Checkpoints(tmp_path / "none", "this run").resume(model, adam(model))
    assert state == State(0, 0, None, 0, 0, [])
    assert equal(model, network(1))
    assert not (tmp_path / "none").exists()


def test_resuming_restores_state_weights_and_optimizer_bit_for_bit(saved: Saved) -> None:
    model = network(1)
    optimizer = adam(model)
    state = saved.checkpoints.resume(model, optimizer)
    assert asdict(state) == asdict(saved.states[3])
    assert equal(model, saved.model)
    expected = saved.optimizer.state_dict()
    found = optimizer.state_dict()
    assert found["param_groups"] == expected["param_groups"]
    assert found["state"].keys() == expected["state"].keys()
    for number, values in expected["state"].items():
        assert found["state"][number].keys() == values.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for name, value in values.items():
            assert torch.equal(found["state"][number][name], value)


def test_a_resumed_run_steps_as_the_one_that_was_never_stopped(tmp_path: Path) -> None:
    through = Saved(tmp_path / "through", 6)
    first = Saved(tmp_path / "first", 3)
    model = network(1)
    optimizer = adam(model)
    assert first.checkpoints.resume(model, optimizer).step == 3
    for number in (4, 5, 6):
        step(model, optimizer, number)
    assert equal(model, through.model)


def test_parameters_that_were_never_stepped_have_no_state_to_restore(tmp_path: Path) -> None:
    model = network()
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    optimizer = adam(model)
    step(model, optimizer, 1)
    Checkpoints(tmp_path, "this run").save(State(step=1, best_step=1), model, optimizer)
    other = network(1)
    resumed = adam(other)
    assert Checkpoints(tmp_path, "this run").resume(other, resumed).step == 1
    assert equal(other, model)
    stepped = {key for key, values in optimizer.state_dict()["state"].items() if values}
    assert set(resumed.state_dict()["state"]) == stepped
    assert len(stepped) == 4


def test_nothing_in_a_checkpoint_is_pickled(saved: Saved) -> None:
    for folder in saved.checkpoints.folder.iterdir():
        assert names(folder) == list(FILES)
        json.loads((folder / "state.json").read_text("utf-8"))


def test_weights_are_loaded_by_step(saved: Saved) -> None:
    model, expected = network(1), network()
    step(expected, adam(expected), 1)
    saved.checkpoints.load_weights(1, model)
    assert equal(model, expected)


# --- damage -------------------------------------------------------------------------------------


@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@example(name="state.json", place=0.0, bit=0)
@example(name="optimizer.safetensors", place=0.999, bit=7)
def test_a_flipped_bit_is_never_resumed_from(
    original: Saved, tmp_path_factory: pytest.TempPathFactory, name: str, place: float, bit: int
) -> None:
    saved = _copied(original, tmp_path_factory.getbasetemp() / "flipped")
    file = saved.checkpoints.path(3) / name
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    file.write_bytes(content)
    model = network(1)
    state = saved.checkpoints.resume(model, adam(model))
    assert state in (saved.states[2], saved.states[3])
    if state == saved.states[3]:
        assert name == "state.json"  # in white space, say
        assert equal(model, saved.model)


@given(name=st.sampled_from(FILES), share=st.floats(0, 1, exclude_max=True))
@example(name="state.json", share=0.0)
def test_a_file_cut_short_is_never_resumed_from(
    original: Saved, tmp_path_factory: pytest.TempPathFactory, name: str, share: float
) -> None:
    saved = _copied(original, tmp_path_factory.getbasetemp() / "cut")
    file = saved.checkpoints.path(3) / name
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    assert saved.resumed() == saved.states[2]


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_falls_back_to_the_checkpoint_before(saved: Saved, file: str) -> None:
    (saved.checkpoints.path(3) / file).unlink()
    assert saved.resumed() == saved.states[2]


@pytest.mark.parametrize(
    "content",
    ["", "null", "[]", "3", "{}", '{"fingerprint": "this run"}', "\x00\x00", '{"step": 3'],
)
def test_a_state_that_is_none_falls_back_to_the_checkpoint_before(
    saved: Saved, content: str
) -> None:
    (saved.checkpoints.path(3) / "state.json").write_text(content, "utf-8")
    assert saved.resumed() == saved.states[2]


def test_with_every_checkpoint_damaged_a_run_begins_again(saved: Saved) -> None:
    for folder in saved.checkpoints.folder.iterdir():
        (folder / "model.safetensors").write_bytes(b"")
    model = network(1)
    assert saved.checkpoints.resume(model, adam(model)) == State()
    assert equal(model, network(1))


@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_a_checkpoint_whose_best_weights_are_damaged_is_not_resumed_from(
    saved: Saved, damage: str
) -> None:
    # Checkpoints 2 and 3 would end with the weights of step 1, the best so far.
    file = saved.checkpoints.path(1) / "model.safetensors"
    if damage == "missing":
        shutil.rmtree(saved.checkpoints.path(1))
    else:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    assert saved.resumed() == State()


@pytest.mark.parametrize(
    "name", ["checkpoint-", "checkpoint-x", "checkpoint-9.old", ".partial-abc", "checkpoint--4"]
)
def test_folders_of_other_names_are_no_checkpoints(saved: Saved, name: str) -> None:
    shutil.copytree(saved.checkpoints.path(2), saved.checkpoints.folder / name)
    assert saved.resumed() == saved.states[3]


def test_a_file_in_the_place_of_a_checkpoint_is_passed_over(saved: Saved) -> None:
    saved.checkpoints.path(9).write_text("a file", "utf-8")
    assert saved.resumed() == saved.states[3]


# --- which ones stay ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "best", "expected"),
    [(1, 1, [1]), (2, 1, [1, 2]), (5, 1, [1, 4, 5]), (5, 3, [3, 4, 5]), (5, 4, [4, 5]),
     (5, 5, [4, 5]), (12, 9, [9, 11, 12])],
)  # fmt: skip
def test_the_newest_two_and_the_best_stay(
    steps: int, best: int, expected: list[int], tmp_path: Path
) -> None:
    Saved(tmp_path, steps, best)
    assert names(tmp_path) == sorted(f"checkpoint-{step}" for step in expected)


def test_the_checkpoint_before_a_new_best_can_be_fallen_back_to(tmp_path: Path) -> None:
    bests = Checkpoints(tmp_path, "this run")
    model = network()
    for number, best in ((1, 1), (2, 1), (3, 3)):
        bests.save(State(step=number, best_step=best), model, adam(model))
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    (bests.path(3) / "model.safetensors").write_bytes(b"")
    assert bests.resume(model, adam(model)).step == 2


def test_what_a_killed_save_left_is_removed_by_the_next(saved: Saved) -> None:
    partial = saved.checkpoints.folder / ".partial-killed"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    saved.checkpoints.save(State(step=4, best_step=4), saved.model, saved.optimizer)
    assert names(saved.checkpoints.folder) == [f"checkpoint-{step}" for step in (1, 3, 4)]


def test_saving_a_step_again_replaces_its_checkpoint(saved: Saved) -> None:
    again = State(step=3, evaluated=2, best=[0.75], best_step=3)
    saved.checkpoints.save(again, network(7), saved.optimizer)
    model = network(1)
    assert saved.checkpoints.resume(model, adam(model)) == again
    assert equal(model, network(7))


def test_checkpoints_of_another_run_are_not_resumed_from(saved: Saved) -> None:
    model = network(1)
    other = Checkpoints(saved.checkpoints.folder, "another run")
    assert other.resume(model, adam(model)) == State()
    assert equal(model, network(1))


def test_beside_newer_checkpoints_of_another_run_there_is_one_to_fall_back_to(
    saved: Saved,
) -> None:
    folder = saved.checkpoints.folder
    for number in (2, 3):
        saved.checkpoints.path(number).rename(folder / f"checkpoint-{number}00")
    ours = Checkpoints(folder, "another run")
    states = [State(step=number, best_step=number) for number in range(1, 5)]
    for state in states:
        ours.save(state, saved.model, saved.optimizer)
    (ours.path(4) / "model.safetensors").write_bytes(b"")
    model = network(1)
    assert ours.resume(model, adam(model)) == states[2]


@pytest.mark.parametrize("blocked", ["", "checkpoints"])
def test_a_folder_that_cannot_be_written_is_a_storage_error(blocked: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file, no folder", "utf-8")
    folder = tmp_path / "file" / blocked
    model = network()
    with pytest.raises(StorageError) as caught:
        Checkpoints(folder, "this run").save(State(step=1), model, adam(model))
    assert caught.value.code == "storage.write"
    assert str(folder) in caught.value.message


# --- stopping -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_what_was_before_is_restored(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Stop().listening() as stop:
        assert stop.asked is None
        os.kill(os.getpid(), number)
        assert stop.asked == number.name
    assert signal.getsignal(number) is before


def test_what_was_before_is_restored_after_an_error_too() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), Stop().listening():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) is before


def test_work_that_can_be_done_again_is_interrupted_at_once() -> None:
    with Stop().listening() as stop:
        with pytest.raises(KeyboardInterrupt), stop.interruptible():
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the signal was not heard")
        assert stop.asked == "SIGTERM"
        os.kill(os.getpid(), signal.SIGINT)  # no longer interruptible
        assert stop.asked == "SIGINT"


def test_a_thread_that_may_not_listen_trains_all_the_same() -> None:
    heard: list[str | None] = []

    def listen() -> None:
        with Stop().listening() as stop:
            heard.append(stop.asked)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert heard == [None]
    assert signal.getsignal(signal.SIGTERM) is before
