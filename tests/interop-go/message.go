package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cloudwego/shmipc-go"
)

// Kinds of messages. See tests/src/interop/message.rs.
const (
	kindEcho  = 1
	kindClose = 2
	kindReply = 3
)

const (
	headLen    = 40
	payloadMax = 64 << 20
	// step is the difference between neighbouring words of a payload.
	step = 0x9e3779b97f4a7c15
)

// head is what each message begins with, little endian.
type head struct {
	kind     uint32
	len      uint32
	replyLen uint32
	replies  uint32
	seed     uint64
	checksum uint64
	index    uint64
}

func (h *head) encode(target []byte) {
	binary.LittleEndian.PutUint32(target[0:], h.kind)
	binary.LittleEndian.PutUint32(target[4:], h.len)
	binary.LittleEndian.PutUint32(target[8:], h.replyLen)
	binary.LittleEndian.PutUint32(target[12:], h.replies)
	binary.LittleEndian.PutUint64(target[16:], h.seed)
	binary.LittleEndian.PutUint64(target[24:], h.checksum)
	binary.LittleEndian.PutUint64(target[32:], h.index)
}

func decode(source []byte) head {
	return head{
		kind:     binary.LittleEndian.Uint32(source[0:]),
		len:      binary.LittleEndian.Uint32(source[4:]),
		replyLen: binary.LittleEndian.Uint32(source[8:]),
		replies:  binary.LittleEndian.Uint32(source[12:]),
		seed:     binary.LittleEndian.Uint64(source[16:]),
		checksum: binary.LittleEndian.Uint64(source[24:]),
		index:    binary.LittleEndian.Uint64(source[32:]),
	}
}

// pattern makes the payload of a seed: word i is seed + i × step.
func pattern(len int, seed uint64) []byte {
	bytes := make([]byte, len)
	fill(bytes, seed)
	return bytes
}

// fill writes every byte of target with the payload of a seed.
func fill(target []byte, seed uint64) {
	for ; 8 <= len(target); target = target[8:] {
		binary.LittleEndian.PutUint64(target, seed)
		seed += step
	}
	var last [8]byte
	binary.LittleEndian.PutUint64(last[:], seed)
	copy(target, last[:])
}

// verified reads every byte of a payload and tells its seed, and whether it is the payload of that seed.
func verified(source []byte) (seed uint64, intact bool) {
	if len(source) < 8 {
		return 0, false
	}
	seed = binary.LittleEndian.Uint64(source)
	difference, word := uint64(0), seed
	for ; 8 <= len(source); source = source[8:] {
		difference |= binary.LittleEndian.Uint64(source) ^ word
		word += step
	}
	var last [8]byte
	binary.LittleEndian.PutUint64(last[:], word)
	for at, b := range source {
		difference |= uint64(b ^ last[at])
	}
	return seed, difference == 0
}

// answer is the seed of a reply to a message of seed.
func answer(seed, index uint64) uint64 {
	return ^(seed<<1 | seed>>63) + index
}

// checksum is FNV-1a of 64 bits.
func checksum(bytes []byte) uint64 {
	sum := uint64(0xcbf29ce484222325)
	for _, b := range bytes {
		sum = (sum ^ uint64(b)) * 0x100000001b3
	}
	return sum
}

// send writes one message and flushes it. The queue may be full for a while: shmipc-go then gives the message up, and it is written anew.
func send(stream *shmipc.Stream, h head, piece int) error {
	payload := pattern(int(h.len), h.seed)
	h.checksum = checksum(payload)
	for deadline := time.Now().Add(patience); ; {
		err := write(stream, h, payload, piece)
		if err == nil {
			err = stream.Flush(false)
		}
		if !errors.Is(err, shmipc.ErrQueueFull) || time.Now().After(deadline) {
			return err
		}
	}
}

func write(stream *shmipc.Stream, h head, payload []byte, piece int) error {
	writer := stream.BufferWriter()
	place, err := writer.Reserve(headLen)
	if err != nil {
		return err
	}
	h.encode(place)
	for 0 < len(payload) {
		next := len(payload)
		if 0 < piece && piece < next {
			next = piece
		}
		n, err := writer.WriteBytes(payload[:next])
		if err != nil {
			return err
		}
		if n != next {
			return fmt.Errorf("%d of %d bytes were written", n, next)
		}
		payload = payload[next:]
	}
	return nil
}

// errTorn is the end of a stream within a message.
var errTorn = errors.New("the stream ended within a message")

// receive reads one message and verifies every byte of its payload.
func receive(stream *shmipc.Stream, piece int) (head, error) {
	if err := stream.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return head{}, err
	}
	reader := stream.BufferReader()
	bytes, err := reader.Peek(headLen)
	if err != nil {
		return head{}, err
	}
	h := decode(bytes)
	if _, err := reader.Discard(headLen); err != nil {
		return h, err
	}
	if payloadMax < h.len {
		return h, fmt.Errorf("a message of %d bytes is announced", h.len)
	}
	payload := make([]byte, 0, h.len)
	for len(payload) < int(h.len) {
		next := int(h.len) - len(payload)
		if 0 < piece && piece < next {
			next = piece
		}
		bytes, err := reader.ReadBytes(next)
		if err != nil {
			return h, fmt.Errorf("%w: %d of %d bytes, %w", errTorn, len(payload), h.len, err)
		}
		payload = append(payload, bytes...)
	}
	return h, verify(h, payload)
}

func verify(h head, payload []byte) error {
	for at, expected := range pattern(len(payload), h.seed) {
		if payload[at] != expected {
			return fmt.Errorf("byte %d of %d is %#x instead of %#x", at, h.len, payload[at], expected)
		}
	}
	if sum := checksum(payload); sum != h.checksum {
		return fmt.Errorf("the checksum of %d bytes is %#x instead of %#x", h.len, sum, h.checksum)
	}
	return nil
}
