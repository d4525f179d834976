package main

import (
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/cloudwego/shmipc-go"
)

// patience is longer than anything takes, unless it hangs.
const patience = 30 * time.Second

// setting is what the command line says.
type setting struct {
	socket   string
	prefix   string
	mode     string
	cap      uint
	queue    uint
	slices   string
	sessions int
	piece    int
}

func parse(arguments []string) (*setting, error) {
	set := &setting{}
	flags := flag.NewFlagSet("interop", flag.ContinueOnError)
	flags.StringVar(&set.socket, "socket", "", "path of the socket, or tcp://ADDRESS:PORT")
	flags.StringVar(&set.prefix, "prefix", "", "what the names of the shared memory begin with")
	flags.StringVar(&set.mode, "mode", "v3", "v2 (files) or v3 (memfd); of a client")
	flags.UintVar(&set.cap, "cap", 32<<20, "bytes of the buffer region; of a client")
	flags.UintVar(&set.queue, "queue", 8192, "elements of a queue; of a client")
	flags.StringVar(&set.slices, "slices", "8172:50,32748:30,131052:20", "classes of slices, SIZE:PERCENT; of a client")
	flags.IntVar(&set.sessions, "sessions", 1, "sessions; of a client")
	flags.IntVar(&set.piece, "piece", 0, "bytes that are written and read in one call, 0 for all")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	if set.socket == "" || set.prefix == "" {
		return nil, fmt.Errorf("-socket and -prefix are needed")
	}
	return set, nil
}

// tcp is what a place begins with that is an IP address and a port.
const tcp = "tcp://"

// place is where the server listens, as shmipc-go knows it.
func (set *setting) place() (network, address string) {
	if address, isTCP := strings.CutPrefix(set.socket, tcp); isTCP {
		return "tcp", address
	}
	return "unix", set.socket
}

func (set *setting) config() (*shmipc.Config, error) {
	config := shmipc.DefaultConfig()
	config.InitializeTimeout = patience
	config.ShareMemoryPathPrefix = set.prefix
	config.ShareMemoryBufferCap = uint32(set.cap)
	config.QueueCap = uint32(set.queue)
	switch set.mode {
	case "v2":
		config.MemMapType = shmipc.MemMapTypeDevShmFile
	case "v3":
		config.MemMapType = shmipc.MemMapTypeMemFd
	default:
		return nil, fmt.Errorf("shmipc-go has no mode %q", set.mode)
	}
	config.BufferSliceSizes = nil
	for _, class := range strings.Split(set.slices, ",") {
		numbers, err := parseNumbers(class, ":")
		if err != nil || len(numbers) != 2 {
			return nil, fmt.Errorf("%q is not SIZE:PERCENT", class)
		}
		pair := &shmipc.SizePercentPair{Size: uint32(numbers[0]), Percent: uint32(numbers[1])}
		config.BufferSliceSizes = append(config.BufferSliceSizes, pair)
	}
	return config, nil
}

func parseNumbers(text, separator string) ([]int, error) {
	var numbers []int
	for _, word := range strings.Split(text, separator) {
		number, err := strconv.Atoi(word)
		if err != nil || number < 0 {
			return nil, fmt.Errorf("%q is not a number", word)
		}
		numbers = append(numbers, number)
	}
	return numbers, nil
}
