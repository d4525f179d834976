// Interop is a client or a server made with shmipc-go, driven by lines on its standard input, so that a test can have it talk to another
// implementation of the protocol.
//
//	interop server|client [flags]
//
// What it says on its standard output, and what it understands on its standard input, is described in
// tests/src/interop/mod.rs, beside the same program in Rust; bench-server and bench-client, which the benchmark drives, in
// bench.go. Everything else, such as the log of shmipc-go, goes to standard error.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/cloudwego/shmipc-go"
)

func main() {
	if err := detachLog(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := run(os.Args[1:]); err != nil {
		fail(err)
	}
}

func run(arguments []string) error {
	if len(arguments) == 0 {
		return fmt.Errorf("the first argument is the role: server or client")
	}
	const levelError = 4
	shmipc.SetLogLevel(levelError)
	switch arguments[0] {
	case "bench-server":
		return serveBench(arguments[1:])
	case "bench-client":
		return connectBench(arguments[1:])
	}
	set, err := parse(arguments[1:])
	if err != nil {
		return err
	}
	switch arguments[0] {
	case "server":
		return serve(set)
	case "client":
		return connect(set)
	default:
		return fmt.Errorf("%q is no role", arguments[0])
	}
}

// answers is where the lines of the protocol go.
var answers = os.Stdout

// detachLog keeps the standard output for answers. shmipc-go has opened its log, which it writes there, before main begins.
func detachLog() error {
	descriptor, err := syscall.Dup(1)
	if err != nil {
		return err
	}
	answers = os.NewFile(uintptr(descriptor), "answers")
	return syscall.Dup3(2, 1, 0)
}

func say(format string, values ...any) {
	fmt.Fprintf(answers, format+"\n", values...)
}

// fail says what went wrong and ends the process.
func fail(err error) {
	say("failed %s", strings.ReplaceAll(err.Error(), "\n", " "))
	os.Exit(1)
}

// obey runs a command for each line until one of them says that it was the last, or the input ends.
func obey(command func(words []string) (last bool, err error)) error {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) == 0 {
			continue
		}
		last, err := command(words)
		if err != nil || last {
			return err
		}
	}
	return lines.Err()
}
