from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper
from sqlalchemy import text

from driftpost_aggregator import audit
from driftpost_aggregator.cli import aggregator
from driftpost_aggregator.delivery.signing import read_secrets
from driftpost_aggregator.settings import load
from driftpost_aggregator.store.database import migrate, open_engine, writing
from driftpost_aggregator.store.migrations import versions
from driftpost_models.build import build_bundle

REVISIONS = sorted(path.name[1:5] for path in Path(versions.__file__).parent.glob("r[0-9]*.py"))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(aggregator, [str(argument) for argument in arguments])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "aggregator.toml"
    path.write_text('[fleet]\nname = "meters"\n')
    return path


def test_init_writes_a_file_that_loads_as_it_is_and_never_over_another(tmp_path: Path) -> None:
    path = tmp_path / "aggregator.toml"
    assert run("init", path).exit_code == 0
    assert load(path).integer("web.port") == 8088
    again = run("init", path)
    assert again.exit_code == 1
    assert "exists already" in again.output


def test_a_missing_settings_file_is_told_with_the_command_that_writes_one(tmp_path: Path) -> None:
    outcome = run("status", "--config", tmp_path / "aggregator.toml")
    assert outcome.exit_code == 1
    assert "there is no such file; write one with `driftpost aggregator init`" in outcome.output


def test_every_key_of_the_starter_file_shows_its_default_or_is_required(tmp_path: Path) -> None:
    path, bare = tmp_path / "a.toml", tmp_path / "b.toml"
    run("init", path)
    started = load(path)
    bare.write_text(f'[fleet]\nname = "{started.text("fleet.name")}"\n')
    assert dict(started) == dict(load(bare))


def test_migrate_says_what_it_did(config: Path) -> None:
    assert run("migrate", "--config", config).output == f"applied {', '.join(REVISIONS)}\n"
    assert run("migrate", "--config", config).output == f"already at {REVISIONS[-1]}\n"


def test_status_of_an_empty_fleet_is_readable(config: Path) -> None:
    assert "driftpost aggregator migrate" in run("status", "--config", config).output
    run("migrate", "--config", config)
    result = run("status", "--config", config)
    assert result.exit_code == 0
    assert "meters, 0 of 0 devices online" in result.output
    assert "incidents    none" in result.output


def test_a_secret_is_new_fit_for_use_and_for_its_owner_only(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    assert run("secret", first).exit_code == 0
    run("secret", second)
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    assert read_secrets(first) != read_secrets(second)
    assert run("secret", first).exit_code == 1


def test_audit_verify_ends_with_one_on_a_broken_chain(config: Path) -> None:
    run("migrate", "--config", config)
    engine = open_engine(f"sqlite:///{config.parent / 'driftpost.db'}")
    with writing(engine) as connection:
        for number in range(3):
            audit.append(connection, at_ms=number, actor="a", action="b", subject="c", words="d")
    assert "3 rows, unbroken" in run("audit", "verify", "--config", config).output
    with writing(engine) as connection:
        connection.execute(text("UPDATE audit SET actor = 'x' WHERE id = 2"))
    engine.dispose()
    broken = run("audit", "verify", "--config", config)
    assert broken.exit_code == 1
    assert "audit row 2: was changed" in broken.output


def test_bundles_list_says_how_they_come_to_be_known(config: Path) -> None:
    run("migrate", "--config", config)
    assert "devices describe what they run" in run("bundles", "list", "--config", config).output


def test_a_bundle_is_added_from_its_file_once(config: Path, tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    rows = np.random.default_rng(1).normal(size=(2_000, 3)).astype(np.float32)
    np.savez(tmp_path / "reference.npz", x=rows)
    path = tmp_path / "reader.bundle"
    build_bundle(tmp_path / "model.onnx", tmp_path / "reference.npz", path, name="reader", version="2")
    first = run("bundles", "add", "--config", config, path)
    assert first.exit_code == 0, first.output
    assert first.output.endswith("reader 2  added\n")
    assert run("bundles", "add", "--config", config, path).output.endswith("reader 2  known already\n")
    assert "reader 2  model" in run("bundles", "list", "--config", config).output
    assert "1 rows, unbroken" in run("audit", "verify", "--config", config).output


def test_a_file_that_is_no_bundle_is_refused_in_words(config: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.bundle"
    path.write_bytes(b"nothing")
    result = run("bundles", "add", "--config", config, path)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('[fleet]\nname = "m"\nbugdet = "x"', "did you mean fleet.budget"),
        ('[fleet]\nname = "m"\nbudget = "1 per device-year"', "is for the whole fleet"),
        ('[fleet]\nname = "m"\nbudget = "rarely"', "is not a false-alarm budget"),
        ('[fleet]\nname = "m"\n[retrain]\nscopes = ["world"]', "unknown 'world'"),
        ('[fleet]\nname = "m"\n[retrain]\nkinds = ["stuck"]', "unknown 'stuck'"),
        ('[fleet]\nname = "m"\n[database]\nurl = "::"', "database.url"),
        ('[fleet]\nname = "m"\n[database]\npassword_file = "none"', "can not be read"),
        (
            '[fleet]\nname = "m"\n'
            + '[[retrain.targets]]\nname = "a"\nurl = "https://x"\nsecret_file = "s"\n' * 2,
            "stands twice",
        ),
        ("", "fleet.name"),
    ],
)
def test_settings_that_can_not_work_are_refused_with_the_setting_s_name(
    tmp_path: Path, more: str, words: str
) -> None:
    path = tmp_path / "aggregator.toml"
    path.write_text(more)
    result = run("status", "--config", path)
    assert result.exit_code == 1
    assert words in result.output


def test_a_relative_database_lies_beside_its_settings(config: Path) -> None:
    run("migrate", "--config", config)
    assert (config.parent / "driftpost.db").is_file()


def test_a_database_password_comes_from_its_file_and_is_never_shown(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    path = tmp_path / "aggregator.toml"
    path.write_text(
        '[fleet]\nname = "m"\n[database]\nurl = "postgresql+psycopg://u@127.0.0.1:1/d"\n'
        'password_file = "password"\n'
    )
    result = run("status", "--config", path)
    assert result.exit_code == 1
    assert "database postgresql+psycopg://u:***@127.0.0.1:1/d" in result.output
    assert "s3cret" not in result.output


def test_a_migrated_database_is_what_the_program_opens(config: Path) -> None:
    engine = open_engine(f"sqlite:///{config.parent / 'driftpost.db'}")
    migrate(engine)
    engine.dispose()
    assert run("migrate", "--config", config).output == f"already at {REVISIONS[-1]}\n"
