import json
import subprocess
import sys

# A tag names the oldest glibc a wheel runs on; Raspberry Pi OS and JetPack 5 have 2.31 or newer.
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_27_aarch64", "manylinux_2_28_aarch64")


def test_both_runtimes_install_on_64_bit_arm_without_a_compiler(distribution, checkout, tmp_path):
    report_file = tmp_path / "report.json"
    platforms = [argument for platform in PLATFORMS for argument in ("--platform", platform)]
    resolved = subprocess.run(
        [
            sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet",
            "--dry-run", "--ignore-installed", "--target", str(tmp_path), "--report", str(report_file),
            "--only-binary", ":all:", "--python-version", "3.11", *platforms,
            "--constraint", str(checkout / "constraints.txt"), f"{distribution.wheel}[onnx,tflite]",
        ],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )  # fmt: skip
    assert resolved.returncode == 0, resolved.stderr
    report = json.loads(report_file.read_text())
    wheels = {entry["metadata"]["name"].lower(): entry["download_info"]["url"] for entry in report["install"]}
    for name in ("ai-edge-litert", "cryptography", "msgpack", "numpy", "onnxruntime"):
        assert wheels[name].endswith("_aarch64.whl"), wheels[name]
