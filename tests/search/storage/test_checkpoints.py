"""Checkpoints in a place that machines share: an object store, behind a real server process, or a folder."""

from __future__ import annotations

import itertools
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING

import pytest
import yaml

import search
from search.backends import in_process
from search.backends.base import Order, Outcome
from search.config.loading import check
from search.config.study_file import StudyFile
from search.errors import LedgerError, StudyFileError
from search.results.saved_study import load
from search.results.study_state import StudyState
from search.storage import checkpoints, object_store
from search.storage.address import Address, write_pointer
from search.storage.checkpoints import Folder
from search.storage.object_store import ObjectStoreFolder
from search.storage.sql_ledger import SqlLedger
from search.study.extension import Extension
from search.study.study import Study
from search.workflows import collect_checkpoints
from search.workflows.export_adapter import export_adapter
from search.workflows.finalize import finalize
from trainables import make
from trainables.export.adapter import read_card
from trainables.folder import FencedFolder, Superseded, read, write
from trainables.protocol import Stopped, raise_if_stopped
from trainables.simulated.plain import SyntheticSizes
from trainables.training import checkpoint

from ..machines import STUDY, essence, said, searched_here, start, until
from ..postgresql_server import Server

if TYPE_CHECKING:
    from tests.s3 import Bucket


@pytest.fixture(params=["disk", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """An empty folder of either kind."""
    if request.param == "disk":
        return tmp_path
    made: Bucket = request.getfixturevalue("store")
    return ObjectStoreFolder(f"{made.address}/{tmp_path.name}")


# -- folders of either kind --------------------------------------------------------------------------------------------------------


def test_a_file_is_what_was_written_last_and_nothing_is_left_beside_it(folder: Folder) -> None:
    assert checkpoints.read_file(folder / "0001", "a") is None
    for blob in (b"first", b"", b"the last"):
        checkpoints.write_file(folder / "0001", "a", blob)
        assert checkpoints.read_file(folder / "0001", "a") == blob
    checkpoints.write_file(folder / "0002", "b", bytes(300))
    checkpoints.write_file(folder / "0002", "c", bytes(5))
    assert checkpoints.folder_sizes(folder) == {"0001": 8, "0002": 305}
    checkpoints.remove_folder(folder / "0002")
    checkpoints.remove_folder(folder / "0003")  # is not there
    assert {name: size for name, size in checkpoints.folder_sizes(folder).items() if size} == {"0001": 8}


def test_what_a_law_promises_is_on_the_disk_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synchronised: list[Path] = []
    fsync = os.fsync

    def watched(handle: int) -> None:
        synchronised.append(Path(os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    checkpoints.write_file(tmp_path / "a", "study.json", b"{}")
    write_pointer(tmp_path / "b" / "ledger.json", Address("postgresql://host/team", "s"))
    SqlLedger.create(tmp_path / "c" / "ledger.db", name="s", file={}, facts={}).close()
    assert [one.name.rpartition(".")[2] for one in synchronised if one.is_file() or "." in one.name] == ["json", "json"]
    assert [one for one in synchronised if one.is_dir()] == [tmp_path / "a", tmp_path / "b", tmp_path / "c"]


def test_a_draft_of_a_worker_that_was_killed_is_no_checkpoint(folder: Folder) -> None:
    checkpoints.write_file(checkpoints.trial_folder(folder, 3), ".checkpoint.safetensors.17", b"half")
    assert not checkpoints.has_checkpoint(folder, 3)


class Ended(BaseException):
    """What a signal raises: SIGTERM in a Ray worker, Ctrl-C in a driver."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a signal in a weak reference's callback is lost
@pytest.mark.parametrize("write_file", [checkpoints.write_file, write], ids=["driver", "worker"])
def test_a_write_that_a_signal_ends_leaves_a_whole_file(folder: Folder, write_file: Callable[[Folder, str, bytes], None]) -> None:
    writing: list[bool] = []

    def end(*_: object) -> None:
        if writing:  # a signal may arrive after its timer was stopped
            raise Ended

    before = signal.signal(signal.SIGALRM, end)
    try:
        whole = {bytes(100_000)}
        began = time.monotonic()
        write_file(folder, "checkpoint", *whole)
        took, n_ended = time.monotonic() - began, 0
        for n in range(1, 41):
            new = bytes([n]) * 100_000
            whole.add(new)
            try:
                writing.append(True)
                signal.setitimer(signal.ITIMER_REAL, took * (n - 0.5) / 40)
                try:
                    write_file(folder, "checkpoint", new)
                finally:
                    writing.clear()
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Ended:
                n_ended += 1
            assert (
                checkpoints.read_file(folder, "checkpoint") in whole
            )  # a write that was left while its thread began may end later
        assert n_ended
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_checkpoint_comes_back_whole_and_a_torn_one_is_named(folder: Folder) -> None:
    import torch

    saved = checkpoint.Checkpoint({"a": torch.arange(6.0).view(2, 3)}, {"epoch": 3, "config": {"optim.lr": 0.1 + 0.2}})
    checkpoint.write(folder, saved)
    again = checkpoint.read(folder)
    assert again is not None
    assert torch.equal(again.tensors["a"], saved.tensors["a"])
    assert again.facts == saved.facts
    blob = checkpoints.read_file(folder, checkpoint.NAME)
    assert blob is not None
    checkpoints.write_file(folder, checkpoint.NAME, blob[:-1])
    with pytest.raises(ValueError, match="is not a complete checkpoint"):
        checkpoint.read(folder)


def test_a_flag_stops_a_worker_that_knows_only_the_place_and_is_no_checkpoint(folder: Folder) -> None:
    place = pickle.loads(pickle.dumps(checkpoints.trial_folder(folder, 7)))  # noqa: S301 - as Ray sends it to another machine
    raise_if_stopped(place)
    checkpoints.set_stop_flag(folder, [7])
    assert not checkpoints.has_checkpoint(folder, 7)
    place = pickle.loads(pickle.dumps(place))  # noqa: S301 - a store is looked at once a second: a fresh one looks at once
    with pytest.raises(Stopped):
        raise_if_stopped(place)
    checkpoints.clear_stop_flag(folder, 7)
    raise_if_stopped(pickle.loads(pickle.dumps(place)))  # noqa: S301
    checkpoints.clear_stop_flag(folder, 7)  # twice is once
    checkpoints.write_file(checkpoints.trial_folder(folder, 7), "epoch.json", b"{}")
    assert checkpoints.has_checkpoint(folder, 7)


def test_only_the_newest_worker_of_a_trial_writes_in_its_folder(folder: Folder) -> None:
    place = checkpoints.trial_folder(folder, 7)
    first = FencedFolder(place)
    assert not checkpoints.has_checkpoint(folder, 7)  # a token is none
    write(first, "epoch.json", b"of the first")
    second = FencedFolder(place)
    with pytest.raises(Superseded):
        write(first, "epoch.json", b"late")
    assert read(second, "epoch.json") == b"of the first"
    write(second, "epoch.json", b"of the second")
    assert read(place, "epoch.json") == b"of the second"
    checkpoints.remove_folder(place)  # as when its checkpoint was ahead of a restored ledger
    with pytest.raises(Superseded):
        write(second, "epoch.json", b"late")
    assert not checkpoints.has_checkpoint(folder, 7)


def test_a_store_is_looked_at_for_a_flag_once_a_second_however_short_the_batches(store: Bucket) -> None:
    place = checkpoints.trial_folder(ObjectStoreFolder(f"{store.address}/often"), 0)
    raise_if_stopped(place)
    checkpoints.set_stop_flag(ObjectStoreFolder(f"{store.address}/often"), [0])
    for _ in range(100):
        raise_if_stopped(place)  # within the second
    with pytest.raises(Stopped):
        until(lambda: raise_if_stopped(place), seconds=5)


def test_a_copied_checkpoint_replaces_what_was_there_and_leaves_the_flag(folder: Folder) -> None:
    checkpoints.write_file(folder / "0001", "epoch.json", b"1")
    flags_name = checkpoints.FLAG
    checkpoints.write_file(folder / "0001", flags_name, b"")
    checkpoints.write_file(folder / "0002", "other", b"of a driver that died")
    checkpoints.copy_folder(folder / "0001", folder / "0002", leave=flags_name)
    assert checkpoints.read_file(folder / "0002", "epoch.json") == b"1"
    assert checkpoints.read_file(folder / "0002", "other") is None
    assert checkpoints.read_file(folder / "0002", flags_name) is None


def test_a_store_that_is_away_is_waited_for_by_the_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_PAUSES", (0.0, 0.0))

    def answers(at: int) -> Callable[[], int]:
        calls = itertools.count(1)

        def do() -> int:
            if (call := next(calls)) < at:
                raise OSError("away")
            return call

        return do

    place = ObjectStoreFolder("s3://nowhere")
    assert place._patiently(answers(3)) == 3
    with pytest.raises(OSError, match="away"):
        place._patiently(answers(4))
    with pytest.raises(OSError, match="away"):
        place.impatient()._patiently(answers(2))


@pytest.mark.slow
def test_a_flag_that_cannot_be_looked_for_is_none() -> None:
    assert not ObjectStoreFolder("s3://studies/a?endpoint_override=127.0.0.1:1&scheme=http").exists("stop")


# -- what a study file may say -----------------------------------------------------------------------------------------------------

RAW = yaml.safe_load(STUDY.format(name="far", n_trials=4, epoch_seconds=0.0))


@pytest.mark.parametrize(
    ("storage", "ledger", "kept", "shared"),
    [
        ("/data", None, "/data", None),
        ("file:///data", None, "/data", None),
        ("/data", "/disk", "/disk", "/data"),
        ("/data", "/data", "/data", None),
        ("s3://bucket/folder", "/disk", "/disk", "s3://bucket/folder"),
        ("gs://bucket/folder", "postgresql://team@db/all", "paretune-studies", "gs://bucket/folder"),
    ],
)
def test_storage_is_what_machines_share_and_ledger_where_the_driver_keeps_the_rest(
    storage: str, ledger: str | None, kept: str, shared: str | None
) -> None:
    file = check(RAW | {"storage": storage, "ledger": ledger})
    assert (file.storage, file.shared) == (Path(kept), shared)
    assert file.ledger == (ledger if ledger and "://" in ledger else None)
    again = check(file.resolved() | file.places() | ({} if file.shared else {"storage": kept}))
    assert (again.storage, again.shared, again.ledger) == (file.storage, file.shared, file.ledger)


@pytest.mark.parametrize(
    "address",
    [
        "s3://AKIAKEY:geheim@bucket/folder",
        "s3://geheim@bucket/folder",
        "s3://bucket/folder?secret_key=geheim",
        "s3://bucket/folder?geheim",
        "s3://bucket/folder?scheme=http&session_token=geheim",
        "file://geheim/folder",
    ],
)
def test_an_address_that_may_hold_a_secret_is_refused_without_repeating_it(address: str, tmp_path: Path) -> None:
    with pytest.raises(StudyFileError, match=r"storage: (the address may contain a secret; remove it|a path must)") as refusal:
        check(RAW | {"storage": address, "ledger": "/disk"})
    assert "geheim" not in str(refusal.value)


def test_nor_is_a_secret_repeated_that_was_typed(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(RAW))
    address = "s3://AKIAKEY:geheim@bucket/folder"
    for words in (
        ["run", "s.yaml", "--set", f"storage={address}"],
        ["run", "s.yaml", "--storage", address],
        ["doctor", "--storage", address],
    ):
        code, printed, complaint = said(*words, cwd=tmp_path)
        assert code == 2
        assert "geheim" not in printed + complaint
        assert "remove it" in complaint


def test_an_object_store_without_a_place_for_the_ledger_is_refused_with_the_remedy() -> None:
    with pytest.raises(
        StudyFileError, match=r"no ledger; set the ledger's location: `ledger: FOLDER` .* or `ledger: postgresql://"
    ):
        check(RAW | {"storage": "s3://bucket/folder"})


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("s3://nobody-made-this/folder", "NO_SUCH_BUCKET"),
        ("s3://studies/folder?endpoint_override=127.0.0.1:1&scheme=http", "NETWORK_CONNECTION"),
        ("foo://studies/folder", "Unrecognized filesystem type"),
    ],
)
def test_a_store_that_cannot_be_written_is_refused_before_anything_starts(
    store: Bucket, tmp_path: Path, address: str, why: str
) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(RAW | {"storage": address, "ledger": str(tmp_path / "disk")}))
    code, _, complaint = said("run", "s.yaml", cwd=tmp_path)
    assert code == 2
    assert why in complaint
    assert "docs/cluster.md" in complaint  # the remedy
    assert not (tmp_path / "disk" / "far" / "ledger.db").exists()


# -- studies -----------------------------------------------------------------------------------------------------------------------


def test_two_studies_of_one_name_do_not_share_a_place_and_one_keeps_its_own(store: Bucket, tmp_path: Path) -> None:
    def file(disk: str, place: str = "twice") -> StudyFile:
        return check(RAW | {"storage": f"{store.address}/{place}", "ledger": str(tmp_path / disk)})

    with closing(Study.create(file("one"), SyntheticSizes())):
        pass
    with pytest.raises(LedgerError, match="checkpoints of another study of this name"):
        Study.create(file("two"), SyntheticSizes())
    with pytest.raises(StudyFileError, match="they stay where they were created"):
        Study.open(file("one", "elsewhere"), SyntheticSizes())
    with pytest.raises(StudyFileError, match="they stay where they were created"):
        Study.open(check(RAW | {"storage": str(tmp_path / "one")}), SyntheticSizes())
    Study.open(file("one"), SyntheticSizes()).close()


def searched(folder: Path, disk: str, **budget: int) -> Path:
    """The folder of a finished study whose checkpoints are in a place that other studies of the name may have."""
    raw = RAW | {"storage": str(folder / "shared"), "ledger": str(folder / disk)}
    with closing(Study.create(check(raw | {"budget": RAW["budget"] | budget}), SyntheticSizes())) as study:
        in_process.run(study, make(**study.file.worker(study.row.facts)))
        return study.folder


def nothing_retrained(orders: Iterable[Order]) -> Iterator[Outcome]:
    for _ in orders:
        raise AssertionError("a model is retrained")
    yield from ()


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def refused(study: Path, law: str) -> None:
    """What changes checkpoints refuses to."""
    with pytest.raises(LedgerError, match=law):
        collect_checkpoints.collect(study, complete=True)
    with pytest.raises(LedgerError, match=law):
        finalize(load(study), n_seeds=1, retrain=nothing_retrained)


def test_of_two_studies_that_claim_a_folder_at_once_one_has_it(tmp_path: Path) -> None:
    for number in range(20):
        place, start = tmp_path / str(number), Barrier(2)

        def claim(uid: str, place: Path = place, start: Barrier = start) -> str | None:
            start.wait()
            try:
                checkpoints.claim_folder(place, uid, "opening")
            except LedgerError:
                return None
            return uid

        with ThreadPoolExecutor(2) as threads:
            won = [uid for uid in threads.map(claim, ["one", "two"]) if uid is not None]
        assert len(won) == 1
        checkpoints.refuse_foreign(place, won[0], ["opening"])
        assert [file.name for file in place.iterdir()] == ["study.json"]


def test_an_old_ledger_changes_nothing_where_another_study_of_its_name_is_now(tmp_path: Path) -> None:
    first = searched(tmp_path, "one")
    shutil.rmtree(tmp_path / "shared" / "far")
    searched(tmp_path, "two")
    before = files_below(tmp_path / "shared")
    refused(first, "checkpoints of another study of this name; nothing was changed")
    assert files_below(tmp_path / "shared") == before


def test_a_copy_of_a_ledger_changes_nothing_once_the_study_goes_on_elsewhere(tmp_path: Path) -> None:
    home = searched(tmp_path, "one")
    copy = Path(shutil.copytree(home, tmp_path / "two" / "far"))
    raw = RAW | {"storage": str(tmp_path / "shared"), "ledger": str(tmp_path / "one")}
    with closing(Study.open(check(raw), SyntheticSizes())) as study:
        study.extend(Extension(more_trials=4))
        in_process.run(study, make(**study.file.worker(study.row.facts)))
    before = files_below(tmp_path / "shared")
    refused(copy, "another copy of this ledger")
    assert files_below(tmp_path / "shared") == before
    assert collect_checkpoints.collect(home).trials
    assert load(home).own_checkpoints() == tmp_path / "shared" / "far"


@pytest.mark.parametrize("mark", [b"", b'{"uid"', b"[]"])
def test_a_mark_that_a_power_cut_has_halved_is_named_and_never_a_traceback(tmp_path: Path, mark: bytes) -> None:
    home = searched(tmp_path, "one", n_trials=3)
    (tmp_path / "shared" / "far" / "study.json").write_bytes(mark)
    file = check(
        RAW | {"storage": str(tmp_path / "shared"), "ledger": str(tmp_path / "one"), "budget": RAW["budget"] | {"n_trials": 3}}
    )
    with pytest.raises(LedgerError, match=r"study.json is not whole .* delete it"):
        Study.open(file, SyntheticSizes())
    (tmp_path / "shared" / "far" / "study.json").unlink()
    with pytest.raises(LedgerError, match=load(home).row.uid):
        load(home).own_checkpoints()
    Study.open(file, SyntheticSizes()).close()
    assert load(home).own_checkpoints()


def test_gc_leaves_in_the_store_what_is_needed_and_says_what_it_takes(store: Bucket, tmp_path: Path) -> None:
    with closing(
        Study.create(check(RAW | {"storage": f"{store.address}/gc", "ledger": str(tmp_path / "disk")}), SyntheticSizes())
    ) as study:
        in_process.run(study, make(**study.file.worker(study.row.facts)))
        members = {trial.number for trial in study.front()}
    home = tmp_path / "disk" / "far"
    before = checkpoints.folder_sizes(ObjectStoreFolder(f"{store.address}/gc/far/trials"))
    found = collect_checkpoints.collect(home, complete=True)
    assert found.freed_bytes + found.kept_bytes == sum(before.values())
    after = {
        int(name) for name, size in checkpoints.folder_sizes(ObjectStoreFolder(f"{store.address}/gc/far/trials")).items() if size
    }
    assert after == members
    assert not (home / "trials").exists()


def test_a_trained_adapter_lies_in_the_store_and_is_exported_from_there(store: Bucket, tmp_path: Path) -> None:
    budget = {"n_trials": 2, "epochs": 1, "max_params": 50_000}
    raw = {"study": "small", "data": {"kind": "digits"}, "methods": ["lora"], "budget": budget}
    place = f"{store.address}/trained"
    study = search.run({**raw, "storage": place, "ledger": str(tmp_path / "disk")}, back_end="in-process")
    for trial in study.history:
        card = export_adapter(study, trial.number, tmp_path / trial.method)
        assert card.metrics["val/top1"] == trial.metrics["val/top1"]
    kept = ObjectStoreFolder(f"{place}/small/adapters").sizes()
    for member in study.members:
        folder = tmp_path / member.method
        assert read_card(folder).origin["trial"] == member.number
        for file in folder.iterdir():
            assert kept[f"{member.number:04d}/{file.name}"] > 0


def test_a_search_that_is_killed_goes_on_on_another_machine_as_if_nothing_had_happened(
    store: Bucket, postgresql: Server, tmp_path: Path
) -> None:
    name, here, there = "killed", tmp_path / "here", tmp_path / "there"
    for machine in (here, there):
        machine.mkdir()
        text = STUDY.format(name=name, n_trials=6, epoch_seconds=0.1) + f"storage: {store.address}/killed\n"
        (machine / "s.yaml").write_text(f"{text}ledger: {postgresql.address()}\n")
    command = ("run", "s.yaml", "--cpus", "1", "--back-end", "in-process")
    home = here / "paretune-studies" / name
    with start(*command, cwd=here) as process:
        try:
            until(lambda: (home / "ledger.json").exists() and len(load(home).epochs) > 4)
        finally:
            process.kill()
    cut = load(home)
    assert cut.state is not StudyState.FINISHED
    done = said(*command, cwd=there)
    assert done[0] == 0, done[2]
    whole = load(there / "paretune-studies" / name)
    assert whole.state is StudyState.FINISHED
    assert essence(whole.history) == essence(tuple(searched_here(tmp_path / "twin", name, n_trials=6).trials))
    with closing(SqlLedger.open(there / "paretune-studies" / name / "ledger.json")) as book:
        assert "restarted" not in {event.kind for event in book.events()}  # it was found in the store
    assert not list(tmp_path.glob("*/paretune-studies/*/trials"))
    printed = "".join(path.read_text() for path in tmp_path.rglob("paretune.log"))
    assert store.environment["AWS_SECRET_ACCESS_KEY"] not in printed + done[1] + done[2]
