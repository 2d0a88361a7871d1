"""A client that others wrote, against the running daemon, with real and with small models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.bundles import built, tabular_rows
from agent.daemons import Agent, running
from driftpost_models.bundle import Bundle
from driftpost_models.runtime import load_model
from driftpost_models.signing import PrivateKey
from realdata import REALDATA, needs_realdata

http = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")


@contextmanager
def client(agent: Agent) -> Iterator[Any]:
    connected = http.InferenceServerClient(f"127.0.0.1:{agent.port}")
    try:
        yield connected
    finally:
        connected.close()


def tensor(name: str, values: Any, kind: str, *, binary: bool) -> Any:
    given = http.InferInput(name, list(values.shape), kind)
    given.set_data_from_numpy(values, binary_data=binary)
    return given


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_it_gets_what_the_model_answers_in_json_and_in_binary(
    daemon: Agent, bundles: Path, binary: bool, compression: str | None
) -> None:
    rows = tabular_rows(6, seed=2)
    plain = load_model(Bundle.open(bundles / "mlp.bundle", None).model_bytes)
    with client(daemon) as triton:
        answer = triton.infer(
            "mlp",
            [tensor("x", rows, "FP32", binary=binary)],
            outputs=[http.InferRequestedOutput("p", binary_data=binary)],
            request_id="six",
            request_compression_algorithm=compression,
        )
    np.testing.assert_allclose(answer.as_numpy("p"), plain.run({"x": rows})["p"], rtol=1e-6)
    response = answer.get_response()
    assert response["id"] == "six"
    assert response["parameters"] == {"verdict": "ok", "verdict_reasons": "", "inference_id": "six"}
    plain.close()


def test_it_reads_metadata_and_health(daemon: Agent) -> None:
    with client(daemon) as triton:
        assert triton.is_server_live()
        assert triton.is_server_ready()
        assert triton.is_model_ready("mlp")
        assert triton.is_model_ready("mlp", "1")
        assert not triton.is_model_ready("other")
        assert triton.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        assert triton.get_model_metadata("mlp")["outputs"] == [
            {"name": "p", "datatype": "FP32", "shape": [-1, 10]}
        ]


def test_it_sees_our_errors_as_its_own(daemon: Agent) -> None:
    with client(daemon) as triton:
        with pytest.raises(http.InferenceServerException, match="it takes float32"):
            triton.infer("mlp", [tensor("x", np.zeros((1, 3), np.float32), "FP32", binary=True)])
        with pytest.raises(http.InferenceServerException, match="no output 'q'"):
            triton.infer(
                "mlp",
                [tensor("x", tabular_rows(1), "FP32", binary=True)],
                outputs=[http.InferRequestedOutput("q")],
            )


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, bundles: Path) -> Iterator[Agent]:
    with running(tmp_path_factory.mktemp("daemon"), bundles / "mlp.bundle", bundles / "team.pub") as agent:
        yield agent


def kws_inputs() -> tuple[Any, list[int]]:
    """500 real int8 inputs of the keyword model and their classes, from the files' names."""
    files = sorted((REALDATA / "data" / "kws01").glob("*.bin"))
    rows = np.stack([np.frombuffer(file.read_bytes(), np.int8) for file in files])
    labels = [int(file.stem.rsplit("_", 1)[1]) for file in files]
    return rows, labels


@needs_realdata
def test_the_keyword_models_answer_through_the_daemon_as_they_should(
    tmp_path: Path, bundles: Path, key: PrivateKey
) -> None:
    rows, labels = kws_inputs()
    model = REALDATA / "models" / "mlperf_tiny" / "kws_ref_model.tflite"
    runtime = load_model(model)
    spec, output = runtime.inputs[0], runtime.outputs[0]
    shaped = rows.reshape(len(rows), *(size or 1 for size in spec.shape[1:]))
    runtime.close()
    from driftpost_models.build import build_bundle

    np.save(tmp_path / "reference.npy", shaped)
    build_bundle(model, tmp_path / "reference.npy", tmp_path / "kws.bundle", name="kws", version="1", key=key)
    with running(tmp_path, tmp_path / "kws.bundle", bundles / "team.pub") as agent, client(agent) as triton:
        answer = triton.infer("kws", [tensor(spec.name, shaped, "INT8", binary=True)])
        answered = answer.as_numpy(output.name)
        document = agent.status()
    accuracy = np.mean(answered.reshape(len(rows), -1).argmax(axis=1) == labels)
    assert 0.88 <= accuracy <= 0.93
    assert document["inferences"]["rows"] == len(rows)
    assert document["windows"]["open_rows"] + document["windows"]["rows"]["recorded"] == len(rows)


def test_a_models_name_may_hold_a_slash(tmp_path: Path, bundles: Path, key: PrivateKey) -> None:
    from agent.bundles import reciprocal_model

    (tmp_path / "team").mkdir()
    reference = abs(tabular_rows(600)[:, :4]) + 0.5
    path = built(tmp_path, "team/inverse", reciprocal_model(), reference, key=key)
    with running(tmp_path, path, bundles / "team.pub") as agent, client(agent) as triton:
        answer = triton.infer("team/inverse", [tensor("x", reference[:1], "FP32", binary=True)])
        np.testing.assert_allclose(answer.as_numpy("y"), 1 / reference[:1], rtol=1e-6)
