"""The RSA key that a phone knows this user by: the one of Android's own tools, or one made on first use."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path

from fleetfoot.errors import DeviceError
from fleetfoot.folders import config_directory


class Signer:
    """Signs what a phone asks to be signed, in the form that adb_shell wants.

    Args:
        path: the private key's PEM file. The public one follows from it.

    Raises:
        DeviceError: the file is no RSA key.
    """

    def __init__(self, path: Path) -> None:
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise DeviceError(f"{path} is no key that can be used ({error}): remove it, and one is made") from None
        if not isinstance(key, RSAPrivateKey) or key.key_size != 2048:
            raise DeviceError(f"{path} is no RSA key of 2048 bits, which ADB wants: remove it, and one is made")
        self._key, self._path = key, path

    def Sign(self, data: bytes) -> bytes:  # noqa: N802 (as adb_shell calls it)
        """The signature of 20 bytes, which pass for a SHA-1 digest."""
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
        from cryptography.hazmat.primitives.hashes import SHA1

        return self._key.sign(data, PKCS1v15(), Prehashed(SHA1()))  # noqa: S303 (what the protocol wants)

    def GetPublicKey(self) -> bytes:  # noqa: N802 (as adb_shell calls it)
        """The public key in Android's form, and whose it is."""
        from adb_shell.auth.keygen import encode_pubkey, get_user_info

        user: str = get_user_info()
        return base64.b64encode(encode_pubkey(str(self._path))) + user.encode()


def signer() -> Signer:
    """The user's key: that of Android's tools where there is one, or else Fleetfoot's own, made if need be.

    Raises:
        DeviceError: the file is no key, or none can be made.
    """
    androids = Path.home() / ".android" / "adbkey"
    if androids.exists():
        return Signer(androids)
    own = config_directory() / "adbkey"
    if not own.exists():
        try:
            _make(own)
        except OSError as error:
            raise DeviceError(f"cannot make a key for ADB in {own.parent}: {error.strerror or error}") from None
    return Signer(own)


def _make(path: Path) -> None:
    """Makes a private key that nobody else can ever read."""
    from adb_shell.auth.keygen import keygen

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as private:
        made = Path(private, path.name)
        keygen(str(made))
        made.chmod(0o600)
        made.replace(path)
