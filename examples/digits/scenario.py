"""What the demo plays: eight meter readers, and what goes wrong with some of them.

Site, firmware and runtime are spread so that half of each value's devices have camera B: the camera is the
only attribute that explains a fault of all B cameras.
"""

from __future__ import annotations

from dataclasses import dataclass

from camera import NORMAL, Effect

FLEET = "meters"
MODEL = "digits"
MODEL_VERSION = "1.0"

FRAMES_PER_SECOND = 20.0  # for each camera; eight of them leave two cores room for everything else
WINDOW_SECONDS = 2.0
REFERENCE_FRAMES = 24_000  # 20 minutes of one camera


@dataclass(frozen=True)
class Device:
    """One meter reader."""

    name: str
    runtime: str
    site: str
    camera: str
    firmware: str

    @property
    def attributes(self) -> dict[str, str]:
        """What cohorts are formed by."""
        return {
            "site": self.site,
            "camera": self.camera,
            "firmware": self.firmware,
            "runtime": self.runtime,
        }


DEVICES = (
    Device("meter-1", "onnx", "north", "A", "2.1"),
    Device("meter-2", "tflite", "north", "B", "2.2"),
    Device("meter-3", "onnx", "east", "A", "2.2"),
    Device("meter-4", "onnx", "east", "B", "2.1"),
    Device("meter-5", "tflite", "south", "A", "2.1"),
    Device("meter-6", "onnx", "south", "B", "2.2"),
    Device("meter-7", "tflite", "west", "A", "2.2"),
    Device("meter-8", "tflite", "west", "B", "2.1"),
)

DRIFTED_ATTRIBUTE = ("camera", "B")
FOGGED = Effect(exposure=0.5, blur=1.0)  # dirt on the housing: half the light, and soft
FROZEN_DEVICE = "meter-5"
FROZEN = Effect(frozen=True)


def effect_of(device: Device) -> Effect:
    """What happens to a device's camera in the second phase."""
    key, value = DRIFTED_ATTRIBUTE
    if device.attributes[key] == value:
        return FOGGED
    return FROZEN if device.name == FROZEN_DEVICE else NORMAL


def cohort() -> frozenset[str]:
    """Devices with the camera that drifts."""
    key, value = DRIFTED_ATTRIBUTE
    return frozenset(device.name for device in DEVICES if device.attributes[key] == value)


@dataclass(frozen=True)
class Schedule:
    """How long each phase lasts, in seconds.

    Attributes:
        quiet: Nothing happens; any alarm is a false one.
        detect: At most this long for the incidents and the request to come.
        settle: Longer watching after they came: nothing more may follow.
        calm: The second phase where nothing is injected.
        drain: At most this long for everything fed to arrive.
    """

    quiet: float = 45.0
    detect: float = 45.0
    settle: float = 10.0
    calm: float = 55.0
    drain: float = 25.0


SHORT = Schedule(quiet=16.0, settle=6.0, calm=16.0)
