from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from driftpost_models.errors import ConfigError
from driftpost_models.probes.block import Block
from driftpost_models.probes.choose import Choice, choose_probes
from driftpost_models.probes.config import parse_probes
from driftpost_models.probes.guesses import image_layout
from driftpost_models.runtime import TensorSpec
from driftpost_models.strict_table import StrictTable

ROWS = 200
FLOAT = np.dtype(np.float32)
RNG = np.random.default_rng(0)


def _spec(
    name: str, raw: np.ndarray, scale: float | None = None, zero_point: int | None = None
) -> TensorSpec:
    return TensorSpec(name, (1, *raw.shape[1:]), raw.dtype, scale, zero_point)


def _choose(
    inputs: dict[str, np.ndarray],
    outputs: dict[str, np.ndarray],
    config: dict[str, object] | None = None,
    scales: dict[str, tuple[float, int]] | None = None,
    **options: object,
) -> Choice:
    specs = [
        [_spec(name, raw, *(scales or {}).get(name, (None, None))) for name, raw in side.items()]
        for side in (inputs, outputs)
    ]
    parsed = None if config is None else parse_probes(StrictTable(config, "probes"), *specs)
    block = Block(inputs, outputs, np.ones(ROWS), np.zeros(ROWS, np.int64))
    choice = choose_probes(specs[0], specs[1], block, parsed, **options)
    values, _ = choice.probes.extract(block)
    assert len(values) == ROWS
    return choice


def _kinds(choice: Choice) -> list[str]:
    return [probe.kind for probe in choice.probes.probes]


def _names(choice: Choice) -> list[str]:
    return [draft.name for draft in choice.probes.drafts]


def _floats(*shape: int) -> np.ndarray:
    return RNG.normal(size=(ROWS, *shape)).astype(np.float32)


SOFTMAX = RNG.dirichlet(np.ones(4), ROWS).astype(np.float32)
NUMBER = _floats(1)


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (_floats(6), "numeric_columns"),
        (_floats(1), "numeric_columns"),
        (RNG.uniform(0, 255, (ROWS, 16, 16, 3)).astype(np.float32), "image"),
        (RNG.uniform(0, 1, (ROWS, 1, 28, 28)).astype(np.float32), "image"),
        (RNG.uniform(0, 1, (ROWS, 28, 28)).astype(np.float32), "image"),
        (RNG.integers(0, 256, (ROWS, 32, 24, 1)).astype(np.uint8), "image"),
        (_floats(512), "signal"),
        (_floats(512, 1), "signal"),
        (_floats(49, 10, 1), "spectrogram"),
        (_floats(3, 40), "spectrogram"),
        (_floats(4, 5, 6, 7), "summary"),
    ],
    ids=lambda v: v if isinstance(v, str) else "x".join(map(str, v.shape[1:])),
)
def test_inputs_are_told_apart_by_their_shape(raw: np.ndarray, kind: str) -> None:
    assert _kinds(_choose({"x": raw}, {"y": NUMBER}))[0] == kind


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((32, 32, 3), "nhwc"),
        ((3, 32, 32), "nchw"),
        ((1, 3, 32, 32), "nchw"),
        ((28, 28), "hw"),
        ((96, 64, 1), "nhwc"),
        ((1, 16, 16), "nchw"),
        ((49, 10, 1), None),
        ((1, 3, 40), None),
        ((7, 7, 3), None),
        ((100, 20), None),
        ((32, 32, 5), None),
        ((5,), None),
        ((), None),
    ],
)
def test_layouts_are_read_from_shapes(shape: Sequence[int], layout: str | None) -> None:
    assert image_layout(shape) == layout


def test_latency_and_verdict_are_always_there_and_never_tracked() -> None:
    drafts = {d.name: d for d in _choose({"x": NUMBER}, {"y": NUMBER}).probes.drafts}
    assert not drafts["latency_us"].tracked
    assert not drafts["verdict"].tracked
    assert drafts["verdict"].categories == tuple(range(10))
    assert drafts["verdict"].labels[:2] == ("ok", "shape")


def _logits(classes: int = 4) -> np.ndarray:
    scores = RNG.normal(0, 1, (ROWS, classes))
    scores[np.arange(ROWS), RNG.integers(0, classes, ROWS)] += 6
    return scores.astype(np.float32)


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (SOFTMAX, "classification"),
        (_logits(), "classification"),
        (NUMBER, "regression"),
        (_floats(3), "regression"),
        (_floats(128) * 0.1, "embedding"),
        (_floats(10, 4), "summary"),
    ],
    ids=["softmax", "logits", "number", "numbers", "embedding", "boxes"],
)
def test_outputs_are_told_apart_by_their_values(raw: np.ndarray, kind: str) -> None:
    assert _kinds(_choose({"x": _floats(5)}, {"y": raw}))[-3] == kind


def test_a_guess_is_noted_and_a_certainty_is_not() -> None:
    assert any("logits" in note for note in _choose({"x": _floats(5)}, {"y": _logits()}).notes)
    assert _choose({"x": _floats(5)}, {"y": SOFTMAX}).notes == []
    assert any("signal" in note for note in _choose({"x": _floats(490)}, {"y": SOFTMAX}).notes)


def test_a_quantized_softmax_is_recognised_by_its_sum_on_the_grid() -> None:
    codes = np.clip(np.rint(SOFTMAX * 256) - 128, -128, 127).astype(np.int8)
    choice = _choose({"x": _floats(5)}, {"y": codes}, scales={"y": (1 / 256, -128)})
    assert choice.probes.probes[1].scores == "probabilities"


def test_one_quantized_sigmoid_is_a_binary_answer_and_one_float_is_a_number() -> None:
    codes = RNG.integers(0, 256, (ROWS, 1)).astype(np.uint8)
    choice = _choose({"x": _floats(5)}, {"y": codes}, scales={"y": (1 / 256, 0)})
    assert choice.probes.probes[1].scores == "binary"
    share = RNG.uniform(size=(ROWS, 1)).astype(np.float32)
    assert "regression" in _kinds(_choose({"x": _floats(5)}, {"y": share}))
    assert "classification" in _kinds(_choose({"x": _floats(5)}, {"y": share}, labelled=True))


def test_labels_or_class_names_make_scores_a_classification() -> None:
    raw = _floats(4) * 0.1
    assert "regression" in _kinds(_choose({"x": _floats(5)}, {"y": raw}))
    assert "classification" in _kinds(_choose({"x": _floats(5)}, {"y": raw}, labelled=True))
    named = _choose({"x": _floats(5)}, {"y": raw}, classes=("a", "b", "c", "d"))
    assert "classification" in _kinds(named)
    assert named.probes.drafts[5].labels == ("a", "b", "c", "d")


def test_an_output_that_repeats_its_input_is_a_reconstruction() -> None:
    x = _floats(20)
    assert "reconstruction" in _kinds(_choose({"x": x}, {"y": x * 0.9}))


def test_a_state_that_is_fed_back_is_kept_but_not_watched() -> None:
    choice = _choose(
        {"audio": _floats(512), "state": _floats(2, 128)}, {"speech": NUMBER, "state_out": _floats(2, 128)}
    )
    tracked = {d.name: d.tracked for d in choice.probes.drafts}
    assert tracked["level"]
    assert [name for name in tracked if name.startswith("state_out.")]
    assert not any(
        v for name, v in tracked.items() if name.startswith("state_out.") or name in ("mean", "spread")
    )


def test_quantized_tensors_get_limits_and_codes_unless_the_owner_objects() -> None:
    raw = RNG.integers(-128, 128, (ROWS, 16, 16, 1)).astype(np.int8)
    assert {"x.at_limits", "x.codes"} <= set(_names(_choose({"x": raw}, {"y": NUMBER})))
    names = _names(_choose({"x": raw}, {"y": NUMBER}, {"disable": ["codes", "limits"]}))
    assert not {"x.at_limits", "x.codes"} & set(names)
    wide = RNG.integers(-1000, 1000, (ROWS, 512)).astype(np.int16)
    names = _names(_choose({"x": wide}, {"y": NUMBER}))
    assert "x.at_limits" in names
    assert "x.codes" not in names


def test_streams_of_two_images_are_told_apart_by_the_tensor() -> None:
    left, right = (RNG.uniform(size=(ROWS, 16, 16, 1)).astype(np.float32) for _ in range(2))
    names = _names(_choose({"left": left, "right": right}, {"y": NUMBER}))
    assert "brightness" in names
    assert "right.brightness" in names


def test_columns_of_few_whole_numbers_are_categories() -> None:
    table = np.column_stack([RNG.normal(size=ROWS), RNG.integers(0, 3, ROWS)]).astype(np.float32)
    choice = _choose({"x": table}, {"y": NUMBER}, columns=("temperature", "door"))
    drafts = {d.name: d.kind.value for d in choice.probes.drafts}
    assert (drafts["temperature"], drafts["door"]) == ("numeric", "categorical")
    assert any("door" in note for note in choice.notes)


@pytest.mark.parametrize(
    ("low", "high", "scale"),
    [
        (0, 255, (0, 255)),
        (0.0, 1.0, (0, 1)),
        (-1.0, 1.0, (-1, 1)),
        (-128, 127, (-128, 127)),
        (0, 200, (0, 255)),
    ],
)
def test_the_scale_of_float_images_is_read_from_the_reference(low, high, scale) -> None:
    raw = RNG.uniform(low, high, (ROWS, 16, 16, 3)).astype(np.float32)
    choice = _choose({"x": raw}, {"y": NUMBER})
    assert (choice.probes.probes[0].low, choice.probes.probes[0].high) == scale
    assert any("full scale" in note for note in choice.notes)


def test_an_unusual_scale_is_taken_from_the_data_and_said() -> None:
    raw = RNG.uniform(-2.1, 2.6, (ROWS, 16, 16, 3)).astype(np.float32)
    choice = _choose({"x": raw}, {"y": NUMBER})
    assert choice.probes.probes[0].low == pytest.approx(-2.1, abs=0.01)
    assert any("no usual scale" in note for note in choice.notes)


class TestWishes:
    def test_every_kind_of_input_can_be_asked_for(self) -> None:
        for kind, more in (
            ("columns", {}),
            ("signal", {"channels": 2, "low": -2.0, "high": 2.0}),
            ("spectrogram", {"features": 10}),
            ("embedding", {}),
            ("summary", {}),
        ):
            choice = _choose({"x": _floats(80)}, {"y": NUMBER}, {"inputs": {"x": {"as": kind, **more}}})
            assert _kinds(choice)[0] == {"columns": "numeric_columns"}.get(kind, kind)
        left_out = _choose({"x": _floats(80)}, {"y": NUMBER}, {"inputs": {"0": {"as": "none"}}})
        assert _kinds(left_out) == ["regression", "latency", "verdict"]

    def test_every_kind_of_output_can_be_asked_for(self) -> None:
        x = _floats(16, 16)
        for kind in ("classification", "regression", "embedding", "reconstruction", "image", "summary"):
            choice = _choose({"x": x}, {"y": x}, {"outputs": {"y": {"as": kind}}})
            assert kind in _kinds(choice)

    def test_columns_are_named_given_units_and_made_categories(self) -> None:
        wish = {"names": ["a", "b"], "units": ["V", ""], "categorical": ["b"]}
        table = np.column_stack([RNG.normal(size=ROWS), RNG.integers(0, 40, ROWS)]).astype(np.float32)
        choice = _choose({"x": table}, {"y": NUMBER}, {"inputs": {"x": wish}})
        drafts = {d.name: d for d in choice.probes.drafts}
        assert drafts["a"].unit == "V"
        assert drafts["b"].kind.value == "categorical"

    def test_streams_can_be_left_alone_and_given_units(self) -> None:
        config = {"streams": {"y": {"tracked": False, "unit": "bar"}}}
        drafts = {d.name: d for d in _choose({"x": NUMBER}, {"y": NUMBER}, config).probes.drafts}
        assert (drafts["y"].tracked, drafts["y"].unit) == (False, "bar")

    @pytest.mark.parametrize(
        ("config", "problem"),
        [
            ({"inputs": {"z": {}}}, r"no such tensor"),
            ({"inputs": {"7": {}}}, r"no such tensor"),
            ({"inputs": {"x": {"as": "imge"}}}, r"did you mean 'image'"),
            ({"inputs": {"x": {"layuot": "nhwc"}}}, r"did you mean 'layout'"),
            ({"inputs": {"x": {"layout": "nwhc"}}}, r"one of nhwc"),
            ({"inputs": {"x": {"names": ["a"]}}}, r"1 names for 5 columns"),
            ({"inputs": {"x": {"units": ["a"]}}}, r"1 units for 5 columns"),
            ({"inputs": {"x": {"categorical": ["a"]}}}, r"no column 'a'"),
            ({"inputs": {"x": {"as": "image"}}}, r"no image"),
            ({"inputs": {"x": {"as": "spectrogram"}}}, r"how many values one frame has"),
            ({"inputs": {"x": {"as": "spectrogram", "features": 3}}}, r"divide 5"),
            ({"inputs": {"x": {"as": "signal", "channels": 2}}}, r"do not divide"),
            ({"outputs": {"y": {"as": "reconstruction"}}}, r"no input has the shape"),
            ({"outputs": {"y": {"scores": "logit"}}}, r"did you mean 'logits'"),
            ({"outputs": {"y": {"classes": ["a"], "scores": "logits"}}}, r"1 class names for 4"),
            ({"outputs": {"y": {"as": "regression", "names": ["a"]}}}, r"4 numbers to name"),
            ({"disable": ["code"]}, r"did you mean 'codes'"),
            ({"inptus": {}}, r"did you mean 'inputs'"),
            ({"streams": {"y": {"trakced": False}}}, r"did you mean 'tracked'"),
            ({"streams": {"y": {"tracked": 1}}}, r"true or false"),
            ({"inputs": 3}, r"must be a table"),
            ({"inputs": {"x": {"names": "a"}}}, r"list of texts"),
            ({"inputs": {"x": {"features": 0}}}, r"between"),
            ({"inputs": {"x": {"low": "dark"}}}, r"must be a number"),
        ],
    )
    def test_a_wish_that_does_not_fit_is_an_error_that_names_its_key(self, config, problem: str) -> None:
        with pytest.raises(ConfigError, match=problem) as error:
            _choose({"x": _floats(5)}, {"y": SOFTMAX}, config)
        assert error.value.key.startswith("probes")
