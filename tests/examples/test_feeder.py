import math
import threading

import numpy as np
import pytest

from camera import NORMAL, Camera, Effect
from digits import load_pool
from driftpost_agent.server import InferenceServer
from driftpost_agent.verdict import OK, GuardedResult, Reason, Status, verdict_of
from feeder import Feeder, Tally, total
from inference_client import InferenceClient, InferenceRefused


class Reader:
    """Answers through the agent's real server; calls every frame a seven."""

    def __init__(self, datatype="INT8"):
        self.datatype = datatype
        self.frames = []
        self.abstain = False
        self.enough = threading.Event()
        self.wanted = 10

    def model_metadata(self):
        return {
            "name": "digits",
            "versions": ["1.0"],
            "platform": "test",
            "inputs": [{"name": "image", "datatype": self.datatype, "shape": [-1, 1, 16, 16]}],
            "outputs": [{"name": "probabilities", "datatype": "INT8", "shape": [-1, 10]}],
        }

    def infer(self, inputs, inference_id):
        self.frames.append(inputs["image"].copy())
        if len(self.frames) >= self.wanted:
            self.enough.set()
        if self.abstain:
            verdict = verdict_of(Status.ABSTAINED, {Reason.FROZEN})
            return GuardedResult({}, verdict, "1-1")
        codes = np.full((1, 10), -128, np.int8)
        codes[0, 7] = 127
        return GuardedResult({"probabilities": codes}, OK, "1-1")

    def ready(self):
        return True

    def status(self):
        return {}

    def metrics(self):
        return ""


@pytest.fixture
def reader():
    return Reader()


@pytest.fixture
def port(reader):
    server = InferenceServer(("127.0.0.1", 0), reader)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="test-server")
    thread.start()
    yield server.port
    server.shutdown()
    thread.join()
    server.close_connections()


@pytest.fixture
def camera():
    return Camera(load_pool("test"), np.random.default_rng(1))


def feed(port, camera, reader, frames, rate_hz=400.0):
    stop = threading.Event()
    reader.wanted = frames
    feeder = Feeder("meter-1", InferenceClient(port, "digits"), camera, rate_hz, exit_event=stop)
    feeder.start()
    assert reader.enough.wait(20)
    return feeder, stop


def test_a_frame_arrives_as_the_model_wants_it_and_the_answer_is_read(port, reader, camera):
    client = InferenceClient(port, "digits")
    client.connect()
    frame = camera.shoot()
    answer = client.infer(frame.pixels)
    client.close()
    assert (answer.digit, answer.verdict) == (7, "ok")
    (seen,) = reader.frames
    assert seen.shape == (1, 1, 16, 16)
    np.testing.assert_array_equal(seen.reshape(16, 16), frame.pixels.astype(int) - 128)


def test_an_abstention_is_an_answer_without_a_digit(port, reader, camera):
    reader.abstain = True
    client = InferenceClient(port, "digits")
    client.connect()
    answer = client.infer(camera.shoot().pixels)
    client.close()
    assert (answer.digit, answer.verdict) == (None, "abstained")


def test_an_unknown_model_is_refused_by_name(port):
    client = InferenceClient(port, "letters")
    with pytest.raises(InferenceRefused, match="letters"):
        client.connect()
    client.close()


def test_a_model_that_takes_other_pixels_is_refused(port, reader):
    reader.datatype = "FP32"
    client = InferenceClient(port, "digits")
    with pytest.raises(InferenceRefused, match="FP32"):
        client.connect()
    client.close()


def test_every_frame_fed_is_counted_once_in_the_phase_it_was_taken_in(port, reader, camera):
    feeder, stop = feed(port, camera, reader, 20)
    feeder.enter("drift", Effect(frozen=True))
    reader.enough.clear()
    reader.wanted = len(reader.frames) + 20
    assert reader.enough.wait(20)
    stop.set()
    feeder.join()
    assert feeder.failure is None
    tallies = feeder.tallies
    assert set(tallies) == {"quiet", "drift"}
    assert feeder.fed == tallies["quiet"].fed + tallies["drift"].fed == len(reader.frames)
    frozen = {frame.tobytes() for frame in reader.frames[-15:]}
    assert len(frozen) == 1


def test_the_score_is_the_share_of_sevens(port, reader, camera):
    feeder, stop = feed(port, camera, reader, 150)
    stop.set()
    feeder.join()
    tally = feeder.tallies["quiet"]
    replay = Camera(load_pool("test"), np.random.default_rng(1))
    labels = [frame.label for frame in replay.frames(tally.fed, NORMAL)]
    assert tally.correct == labels.count(7)
    assert tally.flagged == 0
    assert tally.seconds > 0


def test_a_server_that_goes_away_ends_the_feeding_with_its_reason(camera):
    stop = threading.Event()
    feeder = Feeder("meter-1", InferenceClient(1, "digits"), camera, 10.0, exit_event=stop)
    feeder.start()
    feeder.join()
    assert feeder.failure is not None
    assert "ConnectionRefusedError" in feeder.failure
    assert feeder.fed == 0


def test_scores_add_up_and_an_empty_one_has_no_accuracy():
    assert total([Tally(10, 5, 1, 1.0), Tally(30, 27, 0, 2.0)]) == Tally(40, 32, 1, 3.0)
    assert Tally(40, 32).accuracy == 0.8
    assert math.isnan(total([]).accuracy)
