package main

import (
	"flag"
	"fmt"
	"sort"
	"strconv"
	"sync"
	"time"

	"github.com/cloudwego/shmipc-go"
)

// bench is one end of the parallel ping-pong of shmipc's own benchmark: on each of some streams a message goes to and fro.
//
//	interop bench-server|bench-client -socket=PATH -prefix=PATH -mode=v3 -size=BYTES -streams=N [-touch]
//
// With -touch, the sender writes every byte of the payload and the receiver verifies every one; otherwise memory of that size is
// reserved, sent and discarded, and nobody looks at it.
//
// A client obeys lines: "time MILLISECONDS CALLS" has it call for so long, and no more than so often. It answers
// "timed calls=N elapsed_ns=N p50_ns=N p99_ns=N p999_ns=N".
type bench struct {
	size    int
	streams int
	touch   bool
}

func parseBench(arguments []string) (*bench, *setting, error) {
	b, set := &bench{}, &setting{}
	flags := flag.NewFlagSet("interop", flag.ContinueOnError)
	flags.StringVar(&set.socket, "socket", "", "path of the socket")
	flags.StringVar(&set.prefix, "prefix", "", "what the names of the shared memory begin with")
	flags.StringVar(&set.mode, "mode", "v3", "v2 or v3")
	flags.IntVar(&b.size, "size", 64, "bytes of a payload")
	flags.IntVar(&b.streams, "streams", 1, "streams")
	flags.BoolVar(&b.touch, "touch", false, "write and verify every byte")
	flags.UintVar(&set.cap, "cap", 256<<20, "bytes of the buffer region")
	flags.UintVar(&set.queue, "queue", 65536, "elements of a queue")
	if err := flags.Parse(arguments); err != nil {
		return nil, nil, err
	}
	// One slice for each message.
	set.slices = strconv.Itoa(b.size+256) + ":100"
	return b, set, nil
}

func serveBench(arguments []string) error {
	b, set, err := parseBench(arguments)
	if err != nil {
		return err
	}
	config, err := set.config()
	if err != nil {
		return err
	}
	listener, err := shmipc.NewListener(b, &shmipc.ListenerConfig{Config: config, Network: "unix", ListenPath: set.socket})
	if err != nil {
		return err
	}
	go listener.Run() //nolint:errcheck // It is nil.
	say("ready %s", set.socket)
	return obey(func(words []string) (bool, error) {
		return false, fmt.Errorf("a server does not understand %q", words[0])
	})
}

// OnNewStream is called by the event loop of shmipc-go, which must not be kept waiting.
func (b *bench) OnNewStream(stream *shmipc.Stream) {
	go func() {
		for {
			seed, err := b.receive(stream)
			if err != nil {
				stream.Close()
				return
			}
			stream.BufferReader().ReleasePreviousRead()
			if err := b.send(stream, answer(seed, 0)); err != nil {
				fail(err)
			}
		}
	}()
}

// OnShutdown is called when the listener was closed.
func (b *bench) OnShutdown(string) {}

func (b *bench) send(stream *shmipc.Stream, seed uint64) error {
	place, err := stream.BufferWriter().Reserve(b.size)
	if err != nil {
		return err
	}
	if b.touch {
		fill(place, seed)
	}
	return stream.Flush(false)
}

// receive takes one message and returns its seed.
func (b *bench) receive(stream *shmipc.Stream) (seed uint64, err error) {
	if !b.touch {
		_, err := stream.BufferReader().Discard(b.size)
		return 0, err
	}
	payload, err := stream.BufferReader().ReadBytes(b.size)
	if err != nil {
		return 0, err
	}
	seed, intact := verified(payload)
	if !intact {
		return 0, fmt.Errorf("a message arrived with wrong bytes")
	}
	return seed, nil
}

func connectBench(arguments []string) error {
	b, set, err := parseBench(arguments)
	if err != nil {
		return err
	}
	config, err := set.config()
	if err != nil {
		return err
	}
	manager, err := shmipc.NewSessionManager(&shmipc.SessionManagerConfig{
		Config: config, Network: "unix", Address: set.socket, SessionNum: 1, MaxStreamNum: 4096,
	})
	if err != nil {
		return err
	}
	callers := make([]*caller, b.streams)
	for worker := range callers {
		stream, err := manager.GetStream()
		if err != nil {
			return err
		}
		callers[worker] = &caller{bench: b, stream: stream, seed: uint64(worker) << 32}
	}
	say("ready %s", set.socket)
	return obey(func(words []string) (bool, error) {
		if len(words) != 3 || words[0] != "time" {
			return false, fmt.Errorf("time MILLISECONDS CALLS")
		}
		numbers, err := parseNumbers(words[1]+" "+words[2], " ")
		if err != nil {
			return false, err
		}
		return false, callDuring(callers, time.Duration(numbers[0])*time.Millisecond, numbers[1])
	})
}

// caller calls on a stream of its own.
type caller struct {
	bench  *bench
	stream *shmipc.Stream
	seed   uint64
	// took is the nanoseconds of each call.
	took []int64
}

func callDuring(callers []*caller, duration time.Duration, calls int) error {
	failures := make(chan error, len(callers))
	var group sync.WaitGroup
	start := time.Now()
	for _, c := range callers {
		group.Add(1)
		go func(c *caller) {
			defer group.Done()
			if err := c.callUntil(start.Add(duration), calls/len(callers)); err != nil {
				failures <- err
			}
		}(c)
	}
	group.Wait()
	elapsed := time.Since(start)
	select {
	case err := <-failures:
		return err
	default:
	}
	var took []int64
	for _, c := range callers {
		took = append(took, c.took...)
	}
	sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
	quantile := func(share float64) int64 { return took[int(share*float64(len(took)-1))] }
	say("timed calls=%d elapsed_ns=%d p50_ns=%d p99_ns=%d p999_ns=%d",
		len(took), elapsed.Nanoseconds(), quantile(0.5), quantile(0.99), quantile(0.999))
	return nil
}

func (c *caller) callUntil(end time.Time, calls int) error {
	c.took = c.took[:0]
	for begun := time.Now(); ; {
		if err := c.call(); err != nil {
			return err
		}
		now := time.Now()
		c.took = append(c.took, now.Sub(begun).Nanoseconds())
		if !now.Before(end) || calls <= len(c.took) {
			return nil
		}
		begun = now
	}
}

func (c *caller) call() error {
	c.seed++
	if err := c.bench.send(c.stream, c.seed); err != nil {
		return err
	}
	seed, err := c.bench.receive(c.stream)
	if err != nil {
		return err
	}
	c.stream.ReleaseReadAndReuse()
	if c.bench.touch && seed != answer(c.seed, 0) {
		return fmt.Errorf("an answer arrived with wrong bytes")
	}
	return nil
}
