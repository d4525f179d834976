package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudwego/shmipc-go"
)

type client struct {
	set     *setting
	manager *shmipc.SessionManager
	seeds   atomic.Uint64
	load    *load
}

func connect(set *setting) error {
	config, err := set.config()
	if err != nil {
		return err
	}
	network, address := set.place()
	manager, err := shmipc.NewSessionManager(&shmipc.SessionManagerConfig{
		Config:       config,
		Network:      network,
		Address:      address,
		SessionNum:   set.sessions,
		MaxStreamNum: 4096,
	})
	if err != nil {
		return err
	}
	c := &client{set: set, manager: manager}
	say("ready %s", set.socket)
	return obey(c.command)
}

func (c *client) command(words []string) (last bool, err error) {
	plan, err := parsePlan(words[1:])
	if err != nil {
		return false, err
	}
	switch words[0] {
	case "run":
		return false, c.run(plan)
	case "lose":
		return false, c.lose(plan)
	case "load":
		c.load = c.startLoad(plan)
		say("loaded")
	case "cycle":
		c.load.cycle()
		say("cycled")
	case "unload":
		messages, err := c.load.stop()
		if err != nil {
			return false, err
		}
		say("done %d ok", messages)
	case "quit":
		err := c.manager.Close()
		c.awaitRemoval()
		say("done 0 ok")
		return true, err
	default:
		return false, fmt.Errorf("a client does not understand %q", words[0])
	}
	return false, nil
}

// awaitRemoval waits until the event loop of shmipc-go has removed the files of the sessions, which it does up to a second after they were
// closed. If they stay, the test says so.
func (c *client) awaitRemoval() {
	pattern := fmt.Sprintf("%s_%d_*", c.set.prefix, os.Getpid())
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if names, err := filepath.Glob(pattern); err != nil || len(names) == 0 {
			return
		}
	}
}

// plan is what the words after a command say.
type plan struct {
	streams  int
	messages int
	window   int
	replies  int
	sizes    []int
	close    string
	reuse    bool
	pause    time.Duration
}

func parsePlan(words []string) (*plan, error) {
	p := &plan{streams: 1, messages: 1, window: 1, replies: 1, sizes: []int{64}, close: "client"}
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		numbers, err := parseNumbers(value, ",")
		switch key {
		case "streams":
			p.streams = numbers[0]
		case "messages":
			p.messages = numbers[0]
		case "window":
			p.window = numbers[0]
		case "replies":
			p.replies = numbers[0]
		case "sizes":
			p.sizes = numbers
		case "pause_ms":
			p.pause = time.Duration(numbers[0]) * time.Millisecond
		case "close":
			p.close, err = value, nil
		case "reuse":
			p.reuse, err = strconv.ParseBool(value)
		default:
			err = fmt.Errorf("a plan has no %q", key)
		}
		if err != nil {
			return nil, err
		}
	}
	return p, nil
}

// together runs f once for each stream, side by side, and joins what went wrong.
func together(streams int, f func(worker int) error) error {
	failures := make([]error, streams)
	var group sync.WaitGroup
	for worker := range failures {
		group.Add(1)
		go func(worker int) {
			defer group.Done()
			failures[worker] = f(worker)
		}(worker)
	}
	group.Wait()
	return errors.Join(failures...)
}

func (c *client) run(p *plan) error {
	// All at once, because none is opened for 30 seconds after one message has gone over the socket.
	streams := make([]*shmipc.Stream, p.streams)
	for worker := range streams {
		if p.reuse {
			continue
		}
		stream, err := c.manager.GetStream()
		if err != nil {
			return err
		}
		streams[worker] = stream
	}
	var fallbacks atomic.Uint64
	err := together(p.streams, func(worker int) error {
		if p.reuse {
			return c.exchangeReusing(p, worker)
		}
		stream := streams[worker]
		if err := c.exchange(stream, p, worker); err != nil {
			return fmt.Errorf("stream %d: %w", stream.StreamID(), err)
		}
		_, stability, _ := stream.Session().GetMetrics()
		fallbacks.Store(stability.FallbackWriteCount + stability.FallbackReadCount)
		return nil
	})
	if err != nil {
		return err
	}
	say("done %d ok fallbacks=%d", p.streams*p.messages, fallbacks.Load())
	return nil
}

// exchange sends all messages of one stream, with a window of them under way, and ends the stream as the plan says.
func (c *client) exchange(stream *shmipc.Stream, p *plan, worker int) error {
	for sent := 0; sent < p.messages; {
		window := make([]head, 0, p.window)
		for ; len(window) < p.window && sent < p.messages; sent++ {
			request := c.request(p, worker, sent)
			if sent == p.messages-1 && p.close == "server" {
				request.kind = kindClose
			}
			if err := send(stream, request, c.set.piece); err != nil {
				return err
			}
			window = append(window, request)
		}
		for _, request := range window {
			if err := c.expect(stream, request); err != nil {
				return err
			}
		}
		stream.BufferReader().ReleasePreviousRead()
		time.Sleep(p.pause)
	}
	switch p.close {
	case "server":
		return expectEnd(stream)
	case "client":
		return stream.Close()
	default:
		return nil
	}
}

// exchangeReusing takes a stream for each message and puts it back.
func (c *client) exchangeReusing(p *plan, worker int) error {
	for sent := 0; sent < p.messages; sent++ {
		stream, err := c.manager.GetStream()
		if err != nil {
			return err
		}
		request := c.request(p, worker, sent)
		if err := send(stream, request, c.set.piece); err != nil {
			return err
		}
		if err := c.expect(stream, request); err != nil {
			return err
		}
		c.manager.PutBack(stream)
	}
	return nil
}

func (c *client) request(p *plan, worker, sent int) head {
	size := uint32(p.sizes[(worker+sent)%len(p.sizes)])
	return head{kind: kindEcho, len: size, replyLen: size, replies: uint32(p.replies), seed: c.seeds.Add(1)}
}

// expect receives the replies to a message.
func (c *client) expect(stream *shmipc.Stream, request head) error {
	for index := uint64(0); index < uint64(request.replies); index++ {
		reply, err := receive(stream, c.set.piece)
		if err != nil {
			return fmt.Errorf("reply %d of %d bytes: %w", index, request.replyLen, err)
		}
		if reply.kind != kindReply || reply.index != index || reply.seed != answer(request.seed, index) {
			return fmt.Errorf("%+v is not reply %d to %+v", reply, index, request)
		}
	}
	return nil
}

// expectEnd demands that the server has closed the stream: it can be neither read nor written.
func expectEnd(stream *shmipc.Stream) error {
	if _, err := stream.BufferReader().Peek(1); !errors.Is(err, shmipc.ErrEndOfStream) {
		return fmt.Errorf("read behind the end: %v", err)
	}
	if err := send(stream, head{kind: kindEcho}, 0); !errors.Is(err, shmipc.ErrStreamClosed) {
		return fmt.Errorf("written behind the end: %v", err)
	}
	return stream.Close()
}

// lose waits, with streams in use, for the session to be lost.
func (c *client) lose(p *plan) error {
	streams := make([]*shmipc.Stream, p.streams)
	for worker := range streams {
		stream, err := c.manager.GetStream()
		if err != nil {
			return err
		}
		request := c.request(p, worker, 0)
		if err := send(stream, request, c.set.piece); err != nil {
			return err
		}
		if err := c.expect(stream, request); err != nil {
			return err
		}
		streams[worker] = stream
	}
	say("waiting")
	err := together(len(streams), func(worker int) error {
		_, err := streams[worker].BufferReader().Peek(1)
		if !errors.Is(err, shmipc.ErrStreamClosed) && !errors.Is(err, shmipc.ErrEndOfStream) {
			return fmt.Errorf("read without a session: %v", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	say("done %d ok", p.streams)
	return nil
}

// load is calls that go on in the background, each on a stream that is taken for it and put back.
type load struct {
	workers []atomic.Uint64
	over    chan struct{}
	ended   chan error
}

func (c *client) startLoad(p *plan) *load {
	l := &load{workers: make([]atomic.Uint64, p.streams), over: make(chan struct{}), ended: make(chan error, 1)}
	once := *p
	once.messages = 1
	go func() {
		l.ended <- together(p.streams, func(worker int) error {
			for {
				select {
				case <-l.over:
					return nil
				default:
				}
				if err := c.exchangeReusing(&once, worker); err != nil {
					return err
				}
				l.workers[worker].Add(1)
			}
		})
	}()
	return l
}

// cycle waits until each worker has begun and ended a message since.
func (l *load) cycle() {
	for worker := range l.workers {
		count := &l.workers[worker]
		for begun := count.Load(); count.Load() < begun+2; time.Sleep(time.Millisecond) {
			select {
			case err := <-l.ended:
				fail(fmt.Errorf("a worker of the load ended: %w", err))
			default:
			}
		}
	}
}

func (l *load) stop() (messages uint64, err error) {
	close(l.over)
	err = <-l.ended
	for worker := range l.workers {
		messages += l.workers[worker].Load()
	}
	return messages, err
}
