"""The probe, called and served by grpcio.

usage: grpcio_peer.py client DESCRIPTORS TARGET [CERTIFICATE]
       grpcio_peer.py tools DESCRIPTORS TARGET [CERTIFICATE]
       grpcio_peer.py server DESCRIPTORS UNIX_TARGET CERTIFICATE KEY
       grpcio_peer.py compressing_server DESCRIPTORS UNIX_TARGET CERTIFICATE KEY

The client calls the probe at TARGET in every way and says "all is well". The tools ask the server at TARGET for its services and
their health, and for an error with all details, and say the same. With a CERTIFICATE, they speak TLS, and trust it.

The server listens at UNIX_TARGET and at two ports, the second of which speaks TLS; it prints both, and does what the other servers
do, and all that the tools expect; the compressing one does it by gzip. DESCRIPTORS is a file with the encoded descriptors.
"""

import functools
import queue
import sys
import threading
from concurrent import futures

import grpc
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, duration_pb2, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

SERVICE = "probe.v1.Probe"
ODD = "100 % ünlucky\r\n\U0001f980"
DETAILS = b"\0details\xff"
METADATA = (("x-probe", "one"), ("x-probe", "two"), ("x-probe-bin", bytes([0, 255, 10])), ("x-other", "no"))
ECHOED = [pair for pair in METADATA if pair[0].startswith("x-probe")]
LONG = 30
FAILED_PRECONDITION = 9


# The message and the details of an error that has all of them.
MESSAGE = "the question cannot be answered"
DETAILED = (
    error_details_pb2.ErrorInfo(reason="EMPTY", domain="probe", metadata={"field": "text"}),
    error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000)),
    error_details_pb2.DebugInfo(detail="at the door", stack_entries=["first", "second"]),
    error_details_pb2.QuotaFailure(violations=[
        error_details_pb2.QuotaFailure.Violation(subject="client:7", description="one question a day"),
        error_details_pb2.QuotaFailure.Violation(subject="client:*", description="ten questions a day")]),
    error_details_pb2.PreconditionFailure(violations=[
        error_details_pb2.PreconditionFailure.Violation(type="OPEN", subject="door", description="come by day")]),
    error_details_pb2.BadRequest(field_violations=[
        error_details_pb2.BadRequest.FieldViolation(field="question.text", description="must not be empty"),
        error_details_pb2.BadRequest.FieldViolation(field="question.answers", description="must not be 0")]),
    error_details_pb2.RequestInfo(request_id="request-1", serving_data="served by nobody"),
    error_details_pb2.ResourceInfo(resource_type="shelf", resource_name="shelf-9", owner="librarian",
                                   description="empty, too"),
    error_details_pb2.Help(links=[
        error_details_pb2.Help.Link(description="how to ask", url="https://example.com/ask")]),
    error_details_pb2.LocalizedMessage(locale="de", message="Die Frage ist leer, schöner Mist"),
)


def load(path):
    """Returns the files that describe questions and answers, and a pool with them."""
    files = descriptor_pb2.FileDescriptorSet()
    with open(path, "rb") as file:
        files.ParseFromString(file.read())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return files, pool


def messages(pool):
    """Returns the types of questions and answers."""
    names = ("probe.v1.Question", "probe.v1.Answer")
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names]


def read(path):
    with open(path, "rb") as file:
        return file.read()


def connect(target, certificate=None):
    options = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
    if target.startswith("unix"):
        # By default it is the path, percent-encoded, which servers that stand on hyper refuse.
        options.append(("grpc.default_authority", "localhost"))
    if certificate is None:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(read(certificate)), options=options)


def echoed(metadata):
    return [(key, value) for key, value in metadata if key.startswith("x-probe")]


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def fails(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("it was to fail")


# The client.


class Client:
    def __init__(self, channel, question, answer):
        self.question = question
        kinds = {"Unary": channel.unary_unary, "Download": channel.unary_stream,
                 "Upload": channel.stream_unary, "Chat": channel.stream_stream,
                 "Nothing": channel.unary_unary}
        for name, kind in kinds.items():
            method = kind(f"/{SERVICE}/{name}", request_serializer=question.SerializeToString,
                          response_deserializer=answer.FromString)
            setattr(self, name.lower(), method)

    def failing(self):
        return self.question(code=FAILED_PRECONDITION, message=ODD, payload=DETAILS, answers=2)

    def check_failure(self, error):
        check(error.code() == grpc.StatusCode.FAILED_PRECONDITION, f"the code is {error.code()}")
        check(error.details() == ODD, f"the message is {error.details()!r}")
        trailers = list(error.trailing_metadata())
        check(("grpc-status-details-bin", DETAILS) in trailers, f"the trailers are {trailers}")
        check(sorted(echoed(trailers)) == sorted(ECHOED), f"the trailers are {trailers}")

    def unary_calls(self):
        for length in (0, 1, 300_000):
            answer, call = self.unary.with_call(self.question(text="ping", payload=b"7" * length),
                                                metadata=METADATA, timeout=LONG)
            check(answer.text == "ping" and answer.payload == b"7" * length, "it is what was sent")
            check(answer.timed, "the deadline was seen")
            check(sorted(echoed(call.initial_metadata())) == sorted(ECHOED), "metadata")
        self.check_failure(fails(lambda: self.unary(self.failing(), metadata=METADATA, timeout=LONG)))
        error = fails(lambda: self.nothing(self.question(), timeout=LONG))
        check(error.code() == grpc.StatusCode.UNIMPLEMENTED, f"the code is {error.code()}")
        for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            answer = self.unary(self.question(payload=b"7" * 10_000), timeout=LONG, compression=compression)
            check(answer.payload == b"7" * 10_000, "it is what was sent")
            questions = (self.question(payload=b"7" * 10_000) for _ in range(2))
            answer = self.upload(questions, timeout=LONG, compression=compression)
            check(answer.payload == b"7" * 20_000, "each question comes whole")

    def downloads(self):
        for count in (0, 1, 300):
            call = self.download(self.question(text="more", answers=count), metadata=METADATA, timeout=LONG)
            answers = list(call)
            check([answer.text for answer in answers] == ["more"] * count, "each answer comes")
            check(sorted(echoed(call.initial_metadata())) == sorted(ECHOED), "metadata")
            check(sorted(echoed(call.trailing_metadata())) == sorted(ECHOED), "trailers")
        call = self.download(self.failing(), metadata=METADATA, timeout=LONG)
        next(call), next(call)
        self.check_failure(fails(lambda: next(call)))

    def uploads(self):
        for count in (0, 1, 300):
            questions = (self.question(text="a", payload=b"22") for _ in range(count))
            answer = self.upload(questions, timeout=LONG)
            check(answer.questions == count and answer.text == "a" * count, "each question comes")
            check(answer.payload == b"22" * count, "each question comes whole")
        self.check_failure(fails(lambda: self.upload(iter([self.failing()]), metadata=METADATA, timeout=LONG)))

    def chats(self):
        questions = queue.Queue()
        call = self.chat(iter(questions.get, None), metadata=METADATA, timeout=LONG)
        for number in range(20):
            questions.put(self.question(text=str(number)))
            answer = next(call)
            check((answer.text, answer.questions) == (str(number), number + 1), "ping-pong")
        questions.put(None)
        check(list(call) == [], "it ends well")
        questions.put(self.failing())
        call = self.chat(iter(questions.get, None), metadata=METADATA, timeout=LONG)
        self.check_failure(fails(lambda: next(call)))
        questions.put(None)

    def deadlines(self):
        hanging = self.question(hang=True, answers=2)
        for call in (lambda: self.unary(hanging, timeout=0.1),
                     lambda: list(self.download(hanging, timeout=0.1)),
                     lambda: self.upload(iter([hanging]), timeout=0.1),
                     lambda: list(self.chat(iter([hanging]), timeout=0.1))):
            error = fails(call)
            check(error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, f"the code is {error.code()}")

    def cancellation(self):
        call = self.download(self.question(hang=True, answers=1), timeout=LONG)
        next(call)
        call.cancel()
        error = fails(lambda: next(call))
        check(error.code() == grpc.StatusCode.CANCELLED, f"the code is {error.code()}")


def run_client(descriptors, target, certificate=None):
    client = Client(connect(target, certificate), *messages(load(descriptors)[1]))
    client.unary_calls()
    client.downloads()
    client.uploads()
    client.chats()
    client.deadlines()
    client.cancellation()
    print("all is well")


# The tools.


def find_services(channel, files):
    """Learns from the server what there is, as a tool does that knows nothing."""
    database = ProtoReflectionDescriptorDatabase(channel)
    names = set(database.get_services())
    expected = {SERVICE, health.SERVICE_NAME, "grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME}
    check(names == expected, f"the services are {names}")
    pool = descriptor_pool.DescriptorPool(database)
    service = pool.FindServiceByName(SERVICE)
    methods = [(method.name, method.client_streaming, method.server_streaming) for method in service.methods]
    expected = [("Unary", False, False), ("Download", False, True), ("Upload", True, False), ("Chat", True, True)]
    check(methods == expected, f"the methods are {methods}")
    question, answer = messages(pool)
    expected = next(file for file in files.file if file.package == "probe.v1")
    found = {field.name: field.number for field in question.DESCRIPTOR.fields}
    described = next(message for message in expected.message_type if message.name == "Question")
    check(found == {field.name: field.number for field in described.field}, f"the fields are {found}")
    # What was learnt is enough for a call.
    unary = channel.unary_unary(f"/{SERVICE}/Unary", request_serializer=question.SerializeToString,
                                response_deserializer=answer.FromString)
    check_details(fails(lambda: unary(question(text="why?"), timeout=LONG)))


def ask_in_the_words_of_today(channel, files):
    """The same questions by the protocol of today, whose messages are those of old."""
    ask = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                                request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString)
    request = reflection_pb2.ServerReflectionRequest
    expected = next(file for file in files.file if file.package == "probe.v1")
    listed, by_symbol, by_name, missing = ask(iter([
        request(list_services=""), request(file_containing_symbol=f"{SERVICE}.Chat"),
        request(file_by_filename=expected.name), request(file_containing_symbol="probe.v1.Nothing")]), timeout=LONG)
    names = {service.name for service in listed.list_services_response.service}
    check(SERVICE in names, f"the services are {names}")
    for found in (by_symbol, by_name):
        encoded, = found.file_descriptor_response.file_descriptor_proto
        check(descriptor_pb2.FileDescriptorProto.FromString(encoded) == expected, "it is the file")
    check(missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0], f"the answer is {missing}")


def ask_for_health(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest
    for service in (SERVICE, ""):
        status = stub.Check(request(service=service), timeout=LONG).status
        check(status == health_pb2.HealthCheckResponse.SERVING, f"{service!r} is {status}")
    error = fails(lambda: stub.Check(request(service="nothing"), timeout=LONG))
    check(error.code() == grpc.StatusCode.NOT_FOUND, f"the code is {error.code()}")
    for service, expected in ((SERVICE, health_pb2.HealthCheckResponse.SERVING),
                              ("nothing", health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)):
        watch = stub.Watch(request(service=service), timeout=LONG)
        status = next(watch).status
        check(status == expected, f"{service!r} is {status}")
        watch.cancel()


def check_details(error):
    check(error.code() == grpc.StatusCode.INVALID_ARGUMENT, f"the code is {error.code()}")
    # It compares code and message with those of the call.
    status = rpc_status.from_call(error)
    check(status.message == MESSAGE, f"the message is {status.message!r}")
    check(len(status.details) == len(DETAILED), f"the details are {status.details}")
    for found, expected in zip(status.details, DETAILED):
        detail = type(expected)()
        check(found.Unpack(detail), f"{found.type_url} is not of the type {detail.DESCRIPTOR.full_name}")
        check(detail == expected, f"the detail is {detail}")


def run_tools(descriptors, target, certificate=None):
    files, _ = load(descriptors)
    channel = connect(target, certificate)
    find_services(channel, files)
    ask_in_the_words_of_today(channel, files)
    ask_for_health(channel)
    print("all is well")


# The server.


class Probe:
    def __init__(self, answer):
        self.answer = answer

    def known(self, context, **fields):
        # Without a deadline, grpcio tells of one in the year 2262 or so.
        remaining = context.time_remaining()
        return self.answer(timed=remaining is not None and remaining < 1e6, **fields)

    def end(self, question, context, metadata):
        """Fails, or hangs, if the question asks for it."""
        if question.hang:
            over = threading.Event()
            context.add_callback(over.set)
            over.wait()
        if question.code:
            details = (("grpc-status-details-bin", question.payload),)
            context.set_trailing_metadata(tuple(metadata) + details)
            codes = {code.value[0]: code for code in grpc.StatusCode}
            context.abort(codes[question.code], question.message)

    def begin(self, context):
        metadata = echoed(context.invocation_metadata())
        context.send_initial_metadata(metadata)
        return metadata

    def unary(self, question, context):
        if question.text == "all details":
            details = []
            for message in DETAILED:
                details.append(any_pb2.Any())
                details[-1].Pack(message)
            code = grpc.StatusCode.INVALID_ARGUMENT
            status = status_pb2.Status(code=code.value[0], message=MESSAGE, details=details)
            context.abort_with_status(rpc_status.to_status(status))
        metadata = echoed(context.invocation_metadata())
        self.end(question, context, metadata)
        context.send_initial_metadata(metadata)
        return self.known(context, text=question.text, payload=question.payload, questions=1)

    def download(self, question, context):
        metadata = self.begin(context)
        for _ in range(question.answers):
            yield self.known(context, text=question.text, payload=question.payload, questions=1)
        self.end(question, context, metadata)
        context.set_trailing_metadata(metadata)

    def upload(self, questions, context):
        metadata = self.begin(context)
        text, payload, count = "", b"", 0
        for question in questions:
            self.end(question, context, metadata)
            text, payload, count = text + question.text, payload + question.payload, count + 1
        return self.known(context, text=text, payload=payload, questions=count)

    def chat(self, questions, context):
        metadata = self.begin(context)
        for count, question in enumerate(questions, 1):
            self.end(question, context, metadata)
            yield self.known(context, text=question.text, payload=question.payload, questions=count)
        context.set_trailing_metadata(metadata)


def run_server(descriptors, target, certificate, key, compression=None):
    _, pool = load(descriptors)
    question, answer = messages(pool)
    probe = Probe(answer)
    kinds = {"Unary": (grpc.unary_unary_rpc_method_handler, probe.unary),
             "Download": (grpc.unary_stream_rpc_method_handler, probe.download),
             "Upload": (grpc.stream_unary_rpc_method_handler, probe.upload),
             "Chat": (grpc.stream_stream_rpc_method_handler, probe.chat)}
    handlers = {name: kind(method, request_deserializer=question.FromString,
                           response_serializer=answer.SerializeToString)
                for name, (kind, method) in kinds.items()}
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=64), compression=compression)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    states = health.HealthServicer()
    states.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server, pool)
    port = server.add_insecure_port("127.0.0.1:0")
    secure = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([(read(key), read(certificate))]))
    server.add_insecure_port(target)
    server.start()
    print(port, secure, flush=True)
    server.wait_for_termination()


def main():
    role, *arguments = sys.argv[1:]
    compressing = functools.partial(run_server, compression=grpc.Compression.Gzip)
    roles = {"client": run_client, "tools": run_tools, "server": run_server, "compressing_server": compressing}
    roles[role](*arguments)


if __name__ == "__main__":
    main()
