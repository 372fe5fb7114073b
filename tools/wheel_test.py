"""Build the sdist, from it the wheel, and use that away from the sources: ``make wheel-test``.

What works in a checkout may be missing in a wheel, and what a running service installs is a
promise of the README. Two clean environments show both: one with the runtime alone, one with the
generator.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent

# What a service may install: the three dependencies, and what those depend on.
RUNTIME = {
    "txzmq",
    "protobuf",
    "pyzmq",
    "twisted",
    *("attrs", "automat", "constantly", "hyperlink", "idna", "incremental", "packaging"),
    *("typing-extensions", "zope-interface"),
}
# They come with an environment, or with it on some versions of Python.
TOOLS = {"pip", "setuptools"}


def main() -> None:
    """Run everything in a folder that is removed afterwards."""
    # Neither the checkout nor a warning may help or harm what is tried.
    for name in ("PYTHONPATH", "PYTHONWARNINGS", "VIRTUAL_ENV"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="txzmq-wheel-test-") as name:
        folder = Path(name)
        wheel = build(folder / "dist")
        check_runtime_only(folder / "runtime", wheel)
        check_service(folder / "service", wheel)
        check_validation(folder / "validation", wheel)
        check_tokens(folder / "tokens", wheel)
        check_telemetry(folder / "telemetry", wheel)
        check_grpc(folder / "grpc", wheel)
        check_command_line(folder / "cli", wheel)
        check_gateway(folder / "gateway", wheel)


def build(output: Path) -> Path:
    """Build the sdist, and the wheel from the sdist; the wheel."""
    title("building the sdist, and the wheel from it")
    run(sys.executable, "-m", "build", "--outdir", output, ROOT)
    [sdist], [wheel] = output.glob("*.tar.gz"), output.glob("*.whl")
    with tarfile.open(sdist) as archive:
        # The first part of each path is the name of the release.
        has(sdist, {name.partition("/")[2] for name in archive.getnames()}, "LICENSE", "protos")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    plugin = "twisted/plugins/txzmq_plugin.py"
    has(wheel, set(names), "txzmq/py.typed", "txzmq_codegen/py.typed", "txzmq/codegen.py", plugin)
    ours = re.compile(rf"txzmq(_codegen|-[\w.]+\.dist-info)?/|{plugin}$")
    foreign = [n for n in names if not ours.match(n)]
    check(not foreign, f"{wheel.name} holds what is not txzmq: {foreign}")
    return wheel


def check_runtime_only(folder: Path, wheel: Path) -> None:
    """A running service installs no compiler, and is told what the generator needs."""
    title("the runtime alone")
    python = environment(folder, str(wheel))
    listed = json.loads(run(python, "-m", "pip", "list", "--format=json"))
    installed = {re.sub(r"[-_.]+", "-", package["name"]).lower() for package in listed}
    check(installed - TOOLS <= RUNTIME, f"installed besides: {sorted(installed - TOOLS - RUNTIME)}")
    print("installed:", *sorted(installed - TOOLS))
    run(python, "-W", "error", "-c", "import txzmq, txzmq.rpc, txzmq.testing")
    printed = run(python, "-W", "error", "-c", _STANDARD_SERVICES)
    check(printed == "1 3\n", f"health and reflection answered {printed!r}")
    for program in ("twist", "twistd"):
        printed = run(folder / "bin" / program, "--help")
        check(
            re.search(r"^ +txzmq +Serve services", printed, re.MULTILINE) is not None,
            f"{program} lists no txzmq: {printed}",
        )
    check_twist(folder)
    for extra, arguments in (("codegen", ["txzmq.codegen", ROOT / "protos"]), ("cli", ["txzmq"])):
        refused = subprocess.run(
            [python, "-m", *arguments], cwd=folder, capture_output=True, text=True
        )
        check(refused.returncode != 0, f"{arguments[0]} ran without its dependencies")
        check("Traceback" not in refused.stderr, f"a traceback for an answer: {refused.stderr}")
        check(f"txzmq[{extra}]" in refused.stderr, f"no word of what to install: {refused.stderr}")


def check_twist(folder: Path) -> None:
    """A service of the wheel's own, by its name."""
    command: list[str | Path] = [folder / "bin" / "twist", "--log-format=text"]
    options = ["txzmq", "--listen", "tcp://127.0.0.1:*", "txzmq.rpc.health:Health"]
    server = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert server.stdout is not None
        lines: list[str] = []
        while "the server listens at" not in "".join(lines):
            line = server.stdout.readline()
            check(line != "", f"twist txzmq serves nothing: {''.join(lines)}")
            lines.append(line)
    finally:
        server.kill()
        server.wait()


#: gRPC's services, for which nothing else is installed.
_STANDARD_SERVICES = """
from twisted.internet.defer import Deferred
from txzmq.rpc import Channel, Server
from txzmq.rpc.health import Health, HealthCheckRequest, HealthClient
from txzmq.rpc.reflection import Reflection, ServerReflectionClient, ServerReflectionRequest
from txzmq.testing import MemoryNetwork

network = MemoryNetwork()
server = Server(network, [Health(), Reflection()])
channel = Channel(network, server.listen("inproc://services"), wait_for_ready=True)
checked = network.result(HealthClient(channel).check(HealthCheckRequest()))
listing = ServerReflectionRequest(list_services="")
stream = ServerReflectionClient(channel).server_reflection_info([listing])
listed = network.result(Deferred.fromCoroutine(anext(stream)))
print(checked.status, len(listed.list_services_response.service))
"""


def check_validation(folder: Path, wheel: Path) -> None:
    """Messages with rules, where nothing but the extras brings what their modules import."""
    title("generating messages with rules, and serving them")
    python = environment(folder, f"{wheel}[codegen,validate]")
    example = Path("examples", "validation")
    shutil.copytree(
        ROOT / example, folder / example, ignore=shutil.ignore_patterns("generated", "__pycache__")
    )
    run(
        *(python, "-m", "txzmq.codegen", example / "protos", "-I", example / "third_party"),
        *("--include-imports", "--output", example / "generated"),
        cwd=folder,
    )
    printed = run(python, "-W", "error", "-m", "examples.validation", cwd=folder)
    print(printed)
    check(printed.count("email: string.email") == 2, "server and client did not both refuse")


# A token that is verified, and keys that could be fetched by https.
TOKENS = """
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import reactor
from txzmq.rpc.tokens import BearerTokens, JwksKeys

private = ec.generate_private_key(ec.SECP256R1())
public = private.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
token = jwt.encode({"sub": "alice", "exp": 4_000_000_000}, private, "ES256")
tokens = BearerTokens(public, audience=None, issuer=None)
print(tokens(None, "/a.B/C", (("authorization", f"Bearer {token}"),)))
print(JwksKeys("https://login.example.org/keys", reactor))
"""


def check_tokens(folder: Path, wheel: Path) -> None:
    """The extra brings all that verifies tokens."""
    title("verifying tokens")
    python = environment(folder, f"{wheel}[jwt]")
    printed = run(python, "-W", "error", "-c", TOKENS)
    print(printed)
    check("alice" in printed, "the token was not verified")


def check_telemetry(folder: Path, wheel: Path) -> None:
    """OpenTelemetry's API alone, which passes a trace on and makes no spans of its own."""
    title("passing a trace on, with OpenTelemetry's API alone")
    python = environment(folder, f"{wheel}[otel]")
    listed = json.loads(run(python, "-m", "pip", "list", "--format=json"))
    installed = {re.sub(r"[-_.]+", "-", package["name"]).lower() for package in listed}
    besides = installed - TOOLS - RUNTIME
    check(besides == {"opentelemetry-api"}, f"installed besides: {sorted(besides)}")
    printed = run(python, "-W", "error", "-c", _TELEMETRY)
    check(printed == "traceparent k\n", f"the handler got {printed!r}")


#: A call of a client that knows a trace, in the middle of which nobody makes spans.
_TELEMETRY = """
from google.protobuf.wrappers_pb2 import StringValue
from opentelemetry.context import attach
from opentelemetry.propagate import extract
from txzmq.rpc import Channel, Method, Server, Service
from txzmq.rpc.otel import Telemetry
from txzmq.testing import MemoryNetwork

ECHO = Method("/a.B/Echo", "echo", StringValue, StringValue)

class Echo:
    __txzmq_service__ = Service("a.B", (ECHO,))

    def echo(self, request, context):
        return StringValue(value=" ".join(sorted(dict(context.metadata), reverse=True)))

network, telemetry = MemoryNetwork(), Telemetry()
server = Server(network, [Echo()], observer=telemetry)
channel = Channel(network, server.listen("inproc://x"), observer=telemetry)
attach(extract({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}))
print(network.result(channel.unary_unary(ECHO, StringValue(), metadata={"k": "v"})).value)
"""


def check_grpc(folder: Path, wheel: Path) -> None:
    """The extra brings all that calls a server of gRPC's."""
    title("calling a server of gRPC's")
    python = environment(folder, f"{wheel}[grpc]")
    printed = run(python, "-W", "error", "-c", _GRPC)
    check(printed == "x\n", f"the server of gRPC's answered {printed!r}")


#: A server of gRPC's that answers with what it is asked, and a client of ours.
_GRPC = """
import os
os.environ["GRPC_VERBOSITY"] = "ERROR"  # its client logs that the server ends
from twisted.internet import asyncioreactor
asyncioreactor.install()
import asyncio
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from txzmq.rpc import Method
from txzmq.rpc.grpc import GrpcChannel

async def serve():
    async def echo(request, context):
        return request
    server = grpc.aio.server()
    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("a.B", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port

async def main(reactor):
    server, port = await Deferred.fromFuture(asyncio.ensure_future(serve()))
    channel = GrpcChannel(f"127.0.0.1:{port}")
    method = Method("/a.B/Echo", "echo", StringValue, StringValue)
    print((await channel.unary_unary(method, StringValue(value="x"))).value)
    channel.close()
    await Deferred.fromFuture(asyncio.ensure_future(server.stop(0)))

react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
"""


#: A server that tells its types.
_REFLECTING = """
from twisted.internet import reactor
from txzmq import ZmqFactory
from txzmq.rpc import Server
from txzmq.rpc.health import Health
from txzmq.rpc.reflection import Reflection

server = Server(ZmqFactory(), [Health(), Reflection()])
print(server.listen("tcp://127.0.0.1:*"), flush=True)
reactor.run()
"""


def check_command_line(folder: Path, wheel: Path) -> None:
    """The extra brings all that the program needs, and no compiler."""
    title("the command line")
    python = environment(folder, f"{wheel}[cli]")
    program = folder / "bin" / "txzmq"
    server = subprocess.Popen([python, "-c", _REFLECTING], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        printed = run(program, "call", address, "grpc.health.v1.Health/Check")
        check(printed == '{"status": "SERVING"}\n', f"the call printed {printed!r}")
    finally:
        server.kill()
        server.wait()
    check_serving(folder, program)


def check_gateway(folder: Path, wheel: Path) -> None:
    """The extra brings all that ``txzmq gateway`` needs, for both ways in."""
    title("a gateway")
    python = environment(folder, f"{wheel}[gateway]")
    program = folder / "bin" / "txzmq"
    server = subprocess.Popen([python, "-c", _REFLECTING], stdout=subprocess.PIPE, text=True)
    gateway = None
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        gateway = subprocess.Popen(
            [program, "gateway", "--to", address, "--http", ":0", "--grpc", ":0"],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert gateway.stderr is not None
        lines = ""
        while "JSON are taken at" not in lines or "gRPC is taken at" not in lines:
            line = gateway.stderr.readline()
            check(line != "", f"the gateway has ended: {lines}")
            lines += line
        [url], [target] = (
            re.findall(rf"{what} taken at (\S+)", lines) for what in ("JSON are", "gRPC is")
        )
        printed = run(python, "-c", _CALLING, url, target)
        check(printed == "SERVING\nSERVING\n", f"the gateway answered {printed!r}")
    finally:
        for process in (gateway, server):
            if process is not None:
                process.kill()
                process.wait()


#: Calls by both ways.
_CALLING = """
import json, sys, urllib.request
import grpc
from txzmq.rpc.health import HealthCheckRequest, HealthCheckResponse

url, target = sys.argv[1:]
path = "/grpc.health.v1.Health/Check"
asked = urllib.request.Request(url + path, b"{}", {"content-type": "application/json"})
print(json.load(urllib.request.urlopen(asked))["status"])
with grpc.insecure_channel(target) as channel:
    check = channel.unary_unary(
        path, HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
    )
    status = check(HealthCheckRequest(), wait_for_ready=True, timeout=30).status
    print(HealthCheckResponse.ServingStatus.Name(status))
"""


def check_serving(folder: Path, program: Path) -> None:
    """Processes under a supervisor, of a service in the current folder."""
    title("txzmq serve")
    (folder / "shop.py").write_text(_SHOP)
    serve: list[str | Path] = [program, "serve", "shop:Shop"]
    serve += [part for _ in range(2) for part in ("--listen", "tcp://127.0.0.1:*")]
    refused = subprocess.run(
        [*serve, "--metrics", ":0"], cwd=folder, capture_output=True, text=True
    )
    check("txzmq[prometheus]" in refused.stderr, f"no word of what to install: {refused.stderr}")
    supervisor = subprocess.Popen(
        [*serve, "--log", "json"], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    try:
        assert supervisor.stderr is not None
        addresses: list[str] = []
        for line in supervisor.stderr:
            event = json.loads(line)
            addresses = addresses or event.get("addresses", "").split()
            if "workers are ready" in event["log_format"]:
                break
        for address in addresses:
            printed = run(program, "call", address, "shop.Echo/Echo", "-d", '"tea"')
            check(printed == '"tea"\n', f"the call printed {printed!r}")
        supervisor.terminate()
        rest = supervisor.stderr.read()
        check(supervisor.wait(30) == 0 and len(addresses) == 2, f"it ended badly: {rest}")
    finally:
        supervisor.kill()
        supervisor.wait()


#: A service of well-known types, for which no code is generated.
_SHOP = """
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.wrappers_pb2 import StringValue
from txzmq.rpc import Method, Service

file = descriptor_pb2.FileDescriptorProto(name="shop.proto", package="shop", syntax="proto3")
file.dependency.append("google/protobuf/wrappers.proto")
value = ".google.protobuf.StringValue"
file.service.add(name="Echo").method.add(name="Echo", input_type=value, output_type=value)
descriptor_pool.Default().Add(file)


class Shop:
    __txzmq_service__ = Service(
        "shop.Echo", (Method("/shop.Echo/Echo", "echo", StringValue, StringValue),)
    )

    def echo(self, request, context):
        return request
"""


def check_service(folder: Path, wheel: Path) -> None:
    """The demo's service, generated and typed and run where there are no sources."""
    title("generating the demo's service, with the wheel alone")
    python = environment(folder, f"{wheel}[codegen]")
    shutil.copytree(ROOT / "protos" / "demo", folder / "protos" / "demo")
    shutil.copytree(ROOT / "examples" / "demo", folder / "examples" / "demo")
    where = run(python, "-c", "import txzmq, txzmq_codegen; print(txzmq.__file__)", cwd=folder)
    check(ROOT not in Path(where.strip()).parents, f"not the wheel's: {where}")
    run(python, "-m", "txzmq.codegen", "protos/", cwd=folder)
    (folder / "plugin").mkdir()
    plugin = f"--plugin={folder / 'bin' / 'protoc-gen-txzmq'}"
    proto = "demo/greeter/v1/greeter.proto"
    protoc: list[str | Path] = [python, "-m", "grpc_tools.protoc", "--proto_path=protos", plugin]
    run(*protoc, "--txzmq_out=plugin", proto, cwd=folder)
    check(
        any((folder / "plugin").rglob("greeter_txzmq.py")), "the plugin wrote no greeter_txzmq.py"
    )
    title("the types that the installed packages show")
    checked = ["examples/demo/server.py", "examples/demo/client.py"]
    mypy: list[str | Path] = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--python-executable",
        python,
    ]
    run(*mypy, "--explicit-package-bases", *checked, cwd=folder)
    run(sys.executable, "-m", "pyright", "--pythonpath", python, *checked, cwd=folder)
    title("a server process and a client process")
    printed = run(python, "-m", "examples.demo", cwd=folder)
    print(printed)
    check(printed.count("'Hello, Ada!'") == 2, "the calls over tcp and ipc were not both answered")


def environment(folder: Path, requirement: str) -> Path:
    """Make a clean environment with one thing installed; its interpreter."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", requirement)
    return python


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command, without *cwd* in an empty folder; what it printed."""
    # Python finds modules of the folder that it runs in before the installed ones: of the checkout,
    # and of /tmp, where any user may have put a build.py.
    with tempfile.TemporaryDirectory(prefix="txzmq-empty-") as empty:
        done = subprocess.run(
            command,
            cwd=cwd or empty,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    shown = " ".join(map(str, command))
    check(done.returncode == 0, f"exit status {done.returncode} of {shown}\n{done.stdout}")
    return done.stdout


def has(archive: Path, names: set[str], *wanted: str) -> None:
    """Check that an archive holds certain files or folders."""
    missing = [w for w in wanted if not any(n == w or n.startswith(f"{w}/") for n in names)]
    check(not missing, f"{archive.name} lacks {missing}")


def check(holds: bool, otherwise: str) -> None:
    """End the program with a message unless something holds."""
    if not holds:
        sys.exit(f"wheel-test: {otherwise}")


def title(text: str) -> None:
    """Print what comes next."""
    print(f"== {text}", flush=True)


if __name__ == "__main__":
    main()
