package main

import (
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/cloudwego/shmipc-go"
)

// server answers on each stream that a client opens.
type server struct {
	set      *setting
	listener *shmipc.Listener
	accepted atomic.Int64
	ended    atomic.Int64
	lost     atomic.Int64
	served   atomic.Int64
}

func serve(set *setting) error {
	network, address := set.place()
	set.mode = "v3" // It serves every client; what is set here is not used,
	if network == "tcp" {
		set.mode = "v2" // except that memfds are refused over TCP before there is any.
	}
	config, err := set.config()
	if err != nil {
		return err
	}
	s := &server{set: set}
	s.listener, err = shmipc.NewListener(s, &shmipc.ListenerConfig{Config: config, Network: network, ListenPath: address})
	if err != nil {
		return err
	}
	go s.listener.Run() //nolint:errcheck // It is nil.
	if network == "tcp" {
		set.socket = tcp + s.listener.Addr().String()
	}
	say("ready %s", set.socket)
	if err := obey(s.command); err != nil {
		return err
	}
	say("done %d ok", s.served.Load())
	return nil
}

func (s *server) command(words []string) (last bool, err error) {
	switch words[0] {
	case "stats":
		accepted, ended, lost := s.accepted.Load(), s.ended.Load(), s.lost.Load()
		say("stats accepted=%d ended=%d lost=%d served=%d", accepted, ended, lost, s.served.Load())
	case "restart":
		return false, s.restart(words[1:])
	case "quit":
		return true, s.listener.Close()
	default:
		return false, fmt.Errorf("a server does not understand %q", words[0])
	}
	return false, nil
}

// restart tells the clients that a new server listens at the same path, and waits until they have gone there.
func (s *server) restart(words []string) error {
	if len(words) != 1 {
		return fmt.Errorf("restart EPOCH")
	}
	epoch, err := strconv.ParseUint(words[0], 10, 64)
	if err != nil {
		return err
	}
	// The path belongs to the new server.
	s.listener.SetUnlinkOnClose(false)
	if err := s.listener.HotRestart(epoch); err != nil {
		return err
	}
	for !s.listener.IsHotRestartDone() {
		time.Sleep(time.Millisecond)
	}
	say("restarted %d", epoch)
	return nil
}

// OnNewStream is called by the event loop of shmipc-go, which must not be kept waiting.
func (s *server) OnNewStream(stream *shmipc.Stream) {
	s.accepted.Add(1)
	go func() {
		err := s.converse(stream)
		switch {
		case err == nil || errors.Is(err, errTorn):
			fail(fmt.Errorf("stream %d: %w", stream.StreamID(), errTorn))
		case errors.Is(err, errClosed) || errors.Is(err, shmipc.ErrEndOfStream):
			s.ended.Add(1)
		case errors.Is(err, shmipc.ErrStreamClosed):
			s.lost.Add(1)
		default:
			fail(fmt.Errorf("stream %d: %w", stream.StreamID(), err))
		}
		if err := stream.Close(); err != nil && s.lost.Load() == 0 {
			fail(fmt.Errorf("closing stream %d: %w", stream.StreamID(), err))
		}
	}()
}

// OnShutdown is called when the listener was closed.
func (s *server) OnShutdown(string) {}

// errClosed is the end of a stream that the client asked to have closed.
var errClosed = errors.New("closed as asked for")

// converse answers the messages of a stream until it ends, and says how.
func (s *server) converse(stream *shmipc.Stream) error {
	for {
		if err := await(stream); err != nil {
			return err
		}
		request, err := receive(stream, s.set.piece)
		if err != nil {
			return err
		}
		stream.BufferReader().ReleasePreviousRead()
		s.served.Add(1)
		for index := uint64(0); index < uint64(request.replies); index++ {
			reply := head{kind: kindReply, len: request.replyLen, seed: answer(request.seed, index), index: index}
			if err := send(stream, reply, s.set.piece); err != nil {
				return err
			}
		}
		if request.kind == kindClose {
			return errClosed
		}
	}
}

// await waits for a message for as long as it takes.
func await(stream *shmipc.Stream) error {
	if err := stream.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	_, err := stream.BufferReader().Peek(1)
	return err
}
