// The bare loop of go-redis: one pipeline carries XACK of the last batch and XREADGROUP of the next.
//
// It speaks the contenders' language (benchmarks/contenders/course.py): one argument of JSON says what to do, one
// line of JSON on standard output says what came of it. Entries that it left pending are an error.
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

// course is the handler and its clock, which starts at the first message.
type course struct {
	job
	seen   int
	began  time.Time
	cpu    time.Duration
	delays []float64
}

func main() {
	var given job
	if err := json.Unmarshal([]byte(os.Args[1]), &given); err != nil {
		log.Fatalf("the job is no JSON: %v", err)
	}
	options, err := redis.ParseURL(given.URL)
	if err != nil {
		log.Fatalf("url: %v", err)
	}
	client := redis.NewClient(options)
	defer client.Close()
	if err := run(context.Background(), client, &course{job: given}); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, client *redis.Client, the *course) error {
	var done []string
	for the.seen < the.Count {
		pipeline := client.Pipeline()
		if len(done) > 0 {
			pipeline.XAck(ctx, the.Stream, the.Group, done...)
		}
		read := pipeline.XReadGroup(ctx, &redis.XReadGroupArgs{
			Group: the.Group, Consumer: "one", Streams: []string{the.Stream, ">"}, Count: the.Batch, Block: time.Second,
		})
		if _, err := pipeline.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		done = done[:0]
		for _, stream := range read.Val() {
			for _, message := range stream.Messages {
				the.handle(message.Values)
				done = append(done, message.ID)
			}
		}
	}
	if err := client.XAck(ctx, the.Stream, the.Group, done...).Err(); err != nil {
		return err
	}
	seconds, cpu := time.Since(the.began).Seconds(), (cpuTime() - the.cpu).Seconds()
	pending, err := client.XPending(ctx, the.Stream, the.Group).Result()
	if err != nil {
		return err
	}
	if pending.Count != 0 {
		return fmt.Errorf("%d entries are still pending; each must be acknowledged", pending.Count)
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"seconds": seconds, "cpu_seconds": cpu, "mebibytes": peak(), "handlers_seconds": 0, "polls": 1,
		"delays": the.delays,
	})
}

func (the *course) handle(values map[string]any) {
	if the.seen == the.Skip {
		the.began, the.cpu = time.Now(), cpuTime()
	}
	the.seen++
	if the.Handler == "stamp" && the.seen > the.Skip {
		sent, _ := strconv.ParseInt(values["sent"].(string), 10, 64)
		the.delays = append(the.delays, float64(time.Now().UnixNano()-sent)/1e6)
	}
}

func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		log.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// peak is the greatest resident size of this process so far, in MiB.
func peak() float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	words := strings.Fields(string(status))
	kibibytes, _ := strconv.ParseFloat(words[slices.Index(words, "VmHWM:")+1], 64)
	return kibibytes / 1024
}
