"""Serves a directory over HTTPS on loopback, with a certificate of a CA of its own.

    https.py DIR CA_FILE

Writes the CA's certificate to CA_FILE and prints the URL. Ends when its input does.
"""

import datetime
import functools
import http.server
import ipaddress
import pathlib
import ssl
import sys
import tempfile
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

directory, ca_file = sys.argv[1], pathlib.Path(sys.argv[2])
now = datetime.datetime.now(datetime.timezone.utc)


def certificate(name, key, issuer, issuer_key, *extensions):
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())


def name(text):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def pem(thing):
    return thing.public_bytes(serialization.Encoding.PEM)


ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
ca = certificate(name("Test CA"), ca_key, name("Test CA"), ca_key, (x509.BasicConstraints(True, None), True))
address = x509.SubjectAlternativeName(
    [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("registry.test")])
leaf = certificate(name("registry"), key, name("Test CA"), ca_key, (address, False),
                   (x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), False),
                   (x509.BasicConstraints(False, None), True))
ca_file.write_bytes(pem(ca))


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
with tempfile.NamedTemporaryFile() as chain:
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                serialization.NoEncryption())
    chain.write(pem(leaf) + private)
    chain.flush()
    context.load_cert_chain(chain.name)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=directory))
server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(f"https://127.0.0.1:{server.server_address[1]}/", flush=True)
sys.stdin.read()
