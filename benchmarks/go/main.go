// The bare loop of go-redis: one pipeline carries XACK of the last batch and XREADGROUP of the next.
//
// The interface is that of all contenders (benchmarks/contenders/harness.py): one JSON argument with the job, and one
// line of JSON with the result on standard output. Entries that are left pending are an error.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

type job struct {
	URL     string `json:"url"`
	Stream  string `json:"stream"`
	Group   string `json:"group"`
	Count   int    `json:"count"`
	Batch   int64  `json:"batch"`
	Handler string `json:"handler"`
	Skip    int    `json:"skip"`
}

// harness is the handler and its clock, which starts at the first message.
type harness struct {
	job
	seen   int
	began  time.Time
	cpu    time.Duration
	delays []float64
}

func main() {
	var parameters job
	if err := json.Unmarshal([]byte(os.Args[1]), &parameters); err != nil {
		log.Fatalf("invalid job, expected JSON: %v", err)
	}
	options, err := redis.ParseURL(parameters.URL)
	if err != nil {
		log.Fatalf("url: %v", err)
	}
	client := redis.NewClient(options)
	defer client.Close()
	if err := run(context.Background(), client, &harness{job: parameters}); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, client *redis.Client, h *harness) error {
	var done []string
	for h.seen < h.Count {
		pipeline := client.Pipeline()
		if len(done) > 0 {
			pipeline.XAck(ctx, h.Stream, h.Group, done...)
		}
		read := pipeline.XReadGroup(ctx, &redis.XReadGroupArgs{
			Group: h.Group, Consumer: "one", Streams: []string{h.Stream, ">"}, Count: h.Batch, Block: time.Second,
		})
		if _, err := pipeline.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		done = done[:0]
		for _, stream := range read.Val() {
			for _, message := range stream.Messages {
				h.handle(message.Values)
				done = append(done, message.ID)
			}
		}
	}
	if err := client.XAck(ctx, h.Stream, h.Group, done...).Err(); err != nil {
		return err
	}
	seconds, cpu := time.Since(h.began).Seconds(), (cpuTime() - h.cpu).Seconds()
	pending, err := client.XPending(ctx, h.Stream, h.Group).Result()
	if err != nil {
		return err
	}
	if pending.Count != 0 {
		return fmt.Errorf("%d entries are still pending; each must be acknowledged", pending.Count)
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"seconds": seconds, "cpu_seconds": cpu, "mebibytes": peak(), "handlers_seconds": 0, "polls": 1,
		"delays": h.delays,
	})
}

func (h *harness) handle(values map[string]any) {
	if h.seen == h.Skip {
		h.began, h.cpu = time.Now(), cpuTime()
	}
	h.seen++
	if h.Handler == "stamp" && h.seen > h.Skip {
		sent, _ := strconv.ParseInt(values["sent"].(string), 10, 64)
		h.delays = append(h.delays, float64(time.Now().UnixNano()-sent)/1e6)
	}
}

func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		log.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// peak returns the peak resident size of this process in MiB.
func peak() float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	words := strings.Fields(string(status))
	kibibytes, _ := strconv.ParseFloat(words[slices.Index(words, "VmHWM:")+1], 64)
	return kibibytes / 1024
}
