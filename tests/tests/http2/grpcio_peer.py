"""The probe, called and served by grpcio.

usage: grpcio_peer.py client TARGET DESCRIPTORS
       grpcio_peer.py server UNIX_TARGET DESCRIPTORS
       grpcio_peer.py compressing_server UNIX_TARGET DESCRIPTORS

The client calls the probe at TARGET in every way and says "all is well". The server listens at UNIX_TARGET and at a port,
which it prints, and does what the other servers do; the compressing one does it by gzip. DESCRIPTORS is a file with the encoded descriptors.
"""

import functools
import queue
import sys
import threading
from concurrent import futures

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "probe.v1.Probe"
ODD = "100 % ünlucky\r\n\U0001f980"
DETAILS = b"\0details\xff"
METADATA = (("x-probe", "one"), ("x-probe", "two"), ("x-probe-bin", bytes([0, 255, 10])), ("x-other", "no"))
ECHOED = [pair for pair in METADATA if pair[0].startswith("x-probe")]
LONG = 30
FAILED_PRECONDITION = 9


def load(path):
    """Returns the types of questions and answers."""
    files = descriptor_pb2.FileDescriptorSet()
    with open(path, "rb") as file:
        files.ParseFromString(file.read())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    names = ("probe.v1.Question", "probe.v1.Answer")
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names]


def echoed(metadata):
    return [(key, value) for key, value in metadata if key.startswith("x-probe")]


def check(condition, what):
    if not condition:
        raise AssertionError(what)


# The client.


class Client:
    def __init__(self, target, question, answer):
        self.question = question
        options = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
        if target.startswith("unix"):
            # By default it is the path, percent-encoded, which servers that stand on hyper refuse.
            options.append(("grpc.default_authority", "localhost"))
        channel = grpc.insecure_channel(target, options=options)
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

    def fails(self, call):
        try:
            call()
        except grpc.RpcError as error:
            return error
        raise AssertionError("it was to fail")

    def unary_calls(self):
        for length in (0, 1, 300_000):
            answer, call = self.unary.with_call(self.question(text="ping", payload=b"7" * length),
                                                metadata=METADATA, timeout=LONG)
            check(answer.text == "ping" and answer.payload == b"7" * length, "it is what was sent")
            check(answer.timed, "the deadline was seen")
            check(sorted(echoed(call.initial_metadata())) == sorted(ECHOED), "metadata")
        self.check_failure(self.fails(lambda: self.unary(self.failing(), metadata=METADATA, timeout=LONG)))
        error = self.fails(lambda: self.nothing(self.question(), timeout=LONG))
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
        self.check_failure(self.fails(lambda: next(call)))

    def uploads(self):
        for count in (0, 1, 300):
            questions = (self.question(text="a", payload=b"22") for _ in range(count))
            answer = self.upload(questions, timeout=LONG)
            check(answer.questions == count and answer.text == "a" * count, "each question comes")
            check(answer.payload == b"22" * count, "each question comes whole")
        self.check_failure(self.fails(lambda: self.upload(iter([self.failing()]), metadata=METADATA, timeout=LONG)))

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
        self.check_failure(self.fails(lambda: next(call)))
        questions.put(None)

    def deadlines(self):
        hanging = self.question(hang=True, answers=2)
        for call in (lambda: self.unary(hanging, timeout=0.1),
                     lambda: list(self.download(hanging, timeout=0.1)),
                     lambda: self.upload(iter([hanging]), timeout=0.1),
                     lambda: list(self.chat(iter([hanging]), timeout=0.1))):
            error = self.fails(call)
            check(error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, f"the code is {error.code()}")

    def cancellation(self):
        call = self.download(self.question(hang=True, answers=1), timeout=LONG)
        next(call)
        call.cancel()
        error = self.fails(lambda: next(call))
        check(error.code() == grpc.StatusCode.CANCELLED, f"the code is {error.code()}")


def run_client(target, question, answer):
    client = Client(target, question, answer)
    client.unary_calls()
    client.downloads()
    client.uploads()
    client.chats()
    client.deadlines()
    client.cancellation()
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


def run_server(target, question, answer, compression=None):
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
    port = server.add_insecure_port("127.0.0.1:0")
    server.add_insecure_port(target)
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


def main():
    role, target, descriptors = sys.argv[1:]
    compressing = functools.partial(run_server, compression=grpc.Compression.Gzip)
    run = {"client": run_client, "server": run_server, "compressing_server": compressing}[role]
    run(target, *load(descriptors))


if __name__ == "__main__":
    main()
