import shutil
import ssl

import pytest


def test_a_devices_certificate_can_not_play_the_broker(authority, tmp_path):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(authority / "cam-1.crt", authority / "cam-1.key")
    client = ssl.create_default_context(cafile=str(authority / "ca.crt"))
    client.check_hostname = False
    to_client, from_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = server.wrap_bio(from_server, to_client, server_side=True)
    ours = client.wrap_bio(to_client, from_server)
    with pytest.raises(ssl.SSLWantReadError):
        ours.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        theirs.do_handshake()
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        ours.do_handshake()


@pytest.mark.parametrize("name", ["", "a+b", "#", "a/b", "_other", "x" * 64, "cam 1"])
def test_no_certificate_is_made_for_what_can_not_be_a_device(certificates, authority, name):
    made = certificates("client", str(authority), name)
    assert made.returncode == 2
    assert "is no device's name" in made.stderr


def test_keys_are_for_their_owner_and_never_overwritten(certificates, authority, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(authority, folder)
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.key")} == {0o600}
    before = (folder / "cam-1.key").read_bytes()
    again = certificates("client", str(folder), "cam-1")
    assert again.returncode == 2
    assert "cam-1.key exists" in again.stderr
    assert certificates("ca", str(folder)).returncode == 2
    assert (folder / "cam-1.key").read_bytes() == before
