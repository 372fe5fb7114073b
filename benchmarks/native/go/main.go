// grpc-go: `main server ADDRESS`, or `main client ADDRESS`. What is asked and answered on stdin
// and stdout is in benchmarks/native/loads.py.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"runtime"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "txzmq/benchmarks/native"
)

func check(err error) {
	if err != nil {
		fail(err.Error())
	}
}

func fail(what string) {
	fmt.Fprintln(os.Stderr, what)
	os.Exit(1)
}

func tell(what interface{}) {
	line, err := json.Marshal(what)
	check(err)
	fmt.Println(string(line))
}

// Has the CPU time of the server read.
func tellBegun() { tell(map[string]bool{"begun": true}) }

// ---- the server

type service struct {
	pb.UnimplementedNativeServer
}

func (service) Echo(_ context.Context, request *pb.Item) (*pb.Item, error) {
	return &pb.Item{Sequence: request.Sequence, Payload: request.Payload}, nil
}

func (service) Watch(request *pb.Item, stream pb.Native_WatchServer) error {
	for sequence := uint64(1); ; sequence++ {
		if err := stream.Send(&pb.Item{Sequence: sequence, Payload: request.Payload}); err != nil {
			return err
		}
	}
}

func (service) Upload(stream pb.Native_UploadServer) error {
	for items := uint64(0); ; items++ {
		if _, err := stream.Recv(); err == io.EOF {
			return stream.SendAndClose(&pb.Count{Items: items})
		} else if err != nil {
			return err
		}
	}
}

func (service) Chat(stream pb.Native_ChatServer) error {
	for {
		item, err := stream.Recv()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.Send(item); err != nil {
			return err
		}
	}
}

func (service) Ticks(request *pb.TicksRequest, stream pb.Native_TicksServer) error {
	payload := make([]byte, request.PayloadBytes)
	for sequence := uint64(0); ; {
		for range make([]struct{}, request.Burst) {
			sequence++
			if err := stream.Send(&pb.Item{Sequence: sequence, Payload: payload}); err != nil {
				return err
			}
		}
		time.Sleep(time.Duration(request.Pause) * time.Millisecond)
	}
}

func serve(address string) {
	network, where := "tcp", address
	if strings.HasPrefix(address, "unix:") {
		network, where = "unix", strings.TrimPrefix(address, "unix:")
	}
	listener, err := net.Listen(network, where)
	check(err)
	if network == "tcp" {
		address = listener.Addr().String()
	}
	server := grpc.NewServer()
	pb.RegisterNativeServer(server, service{})
	go func() { check(server.Serve(listener)) }()
	versions := map[string]string{
		"go":         strings.TrimPrefix(runtime.Version(), "go"),
		"grpc-go":    grpc.Version,
		"GOMAXPROCS": fmt.Sprint(runtime.GOMAXPROCS(0)),
	}
	tell(map[string]interface{}{"address": address, "versions": versions})
	_, err = io.Copy(io.Discard, os.Stdin)
	check(err)
}

// ---- the client

type order struct {
	load         string
	atOnce       int
	payload      []byte
	seconds      float64
	burst, pause uint32
	over         time.Time
}

// What one of those at once counts.
type tally struct {
	count     uint64
	latencies []float64
	_         [64]byte // so that no two share a cache line
}

type report struct {
	Count   uint64  `json:"count"`
	Seconds float64 `json:"seconds"`
	Cpu     float64 `json:"cpu"`
	P50     float64 `json:"p50"`
	P90     float64 `json:"p90"`
	P99     float64 `json:"p99"`
	P999    float64 `json:"p999"`
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

func percentile(ordered []float64, percent float64) float64 {
	if len(ordered) == 0 {
		return 0
	}
	return ordered[int(math.Ceil(float64(len(ordered))*percent/100))-1]
}

func (order *order) item(sequence uint64) *pb.Item {
	return &pb.Item{Sequence: sequence, Payload: order.payload}
}

func deadline() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Minute)
}

func (tally *tally) complete(begun time.Time) time.Time {
	now := time.Now()
	tally.count++
	tally.latencies = append(tally.latencies, now.Sub(begun).Seconds())
	return now
}

func unary(client pb.NativeClient, order *order, tally *tally) {
	for sequence := uint64(1); ; sequence++ {
		begun := time.Now()
		ctx, cancel := deadline()
		reply, err := client.Echo(ctx, order.item(sequence))
		cancel()
		check(err)
		if reply.Sequence != sequence || len(reply.Payload) != len(order.payload) {
			fail("Echo: a reply is not the request's")
		}
		if !tally.complete(begun).Before(order.over) {
			return
		}
	}
}

func responses(client pb.NativeClient, order *order, tally *tally) {
	ctx, cancel := deadline()
	defer cancel()
	stream, err := client.Watch(ctx, order.item(0))
	check(err)
	for tally.count%100 != 0 || time.Now().Before(order.over) {
		_, err := stream.Recv()
		check(err)
		tally.count++
	}
}

func requests(client pb.NativeClient, order *order, tally *tally) {
	ctx, cancel := deadline()
	defer cancel()
	stream, err := client.Upload(ctx)
	check(err)
	for tally.count%100 != 0 || time.Now().Before(order.over) {
		tally.count++
		check(stream.Send(order.item(tally.count)))
	}
	reply, err := stream.CloseAndRecv()
	check(err)
	if reply.Items != tally.count {
		fail("Upload: items were lost")
	}
}

func both(client pb.NativeClient, order *order, tally *tally) {
	ctx, cancel := deadline()
	defer cancel()
	stream, err := client.Chat(ctx)
	check(err)
	for sequence := uint64(1); ; sequence++ {
		begun := time.Now()
		check(stream.Send(order.item(sequence)))
		reply, err := stream.Recv()
		check(err)
		if reply.Sequence != sequence {
			fail("Chat: an answer is not the item's")
		}
		if !tally.complete(begun).Before(order.over) {
			break
		}
	}
	check(stream.CloseSend())
	if _, err := stream.Recv(); err != io.EOF {
		fail(fmt.Sprint("Chat did not end: ", err))
	}
}

func keep(client pb.NativeClient, order *order, one func(pb.NativeClient, *order, *tally)) report {
	tallies := make([]tally, order.atOnce)
	var all sync.WaitGroup
	tellBegun()
	cpu, begun := cpuSeconds(), time.Now()
	order.over = begun.Add(time.Duration(order.seconds * float64(time.Second)))
	for number := range tallies {
		all.Add(1)
		go func(tally *tally) {
			defer all.Done()
			one(client, order, tally)
		}(&tallies[number])
	}
	all.Wait()
	result := report{Seconds: time.Since(begun).Seconds(), Cpu: cpuSeconds() - cpu}
	latencies := []float64{}
	for _, each := range tallies {
		result.Count += each.count
		latencies = append(latencies, each.latencies...)
	}
	sort.Float64s(latencies)
	result.P50, result.P90 = percentile(latencies, 50), percentile(latencies, 90)
	result.P99, result.P999 = percentile(latencies, 99), percentile(latencies, 99.9)
	return result
}

// Subscribers, each with a connection of its own; counts from the moment when all have begun.
func fanOut(connect func() pb.NativeClient, clients *[]pb.NativeClient, order *order) {
	for len(*clients) < order.atOnce {
		*clients = append(*clients, connect())
	}
	tallies := make([]tally, order.atOnce)
	counted := func() (count uint64) {
		for number := range tallies {
			count += atomic.LoadUint64(&tallies[number].count)
		}
		return
	}
	var begun, ended sync.WaitGroup
	begun.Add(order.atOnce)
	ended.Add(order.atOnce)
	ctx, cancel := deadline()
	request := &pb.TicksRequest{
		Burst: order.burst, Pause: order.pause, PayloadBytes: uint32(len(order.payload)),
	}
	for number, client := range (*clients)[:order.atOnce] {
		go func(client pb.NativeClient, tally *tally) {
			defer ended.Done()
			stream, err := client.Ticks(ctx, request)
			check(err)
			for first := true; ; first = false {
				if _, err := stream.Recv(); status.Code(err) == codes.Canceled {
					return
				} else if err != nil {
					fail(err.Error())
				}
				atomic.AddUint64(&tally.count, 1)
				if first {
					begun.Done()
				}
			}
		}(client, &tallies[number])
	}
	begun.Wait()
	tellBegun()
	before, cpu, since := counted(), cpuSeconds(), time.Now()
	time.Sleep(time.Duration(order.seconds * float64(time.Second)))
	result := report{
		Count:   counted() - before,
		Seconds: time.Since(since).Seconds(),
		Cpu:     cpuSeconds() - cpu,
	}
	tell(result)
	cancel()
	ended.Wait()
}

func drive(address string) {
	connect := func() pb.NativeClient {
		connection, err := grpc.Dial(address, grpc.WithInsecure())
		check(err)
		return pb.NewNativeClient(connection)
	}
	client := connect()
	var others []pb.NativeClient
	loads := map[string]func(pb.NativeClient, *order, *tally){
		"unary": unary, "responses": responses, "requests": requests, "both": both,
	}
	tell(map[string]bool{"ready": true})
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var order order
		var bytes int
		_, err := fmt.Sscan(lines.Text(), &order.load, &order.atOnce, &bytes, &order.seconds,
			&order.burst, &order.pause)
		check(err)
		order.payload = []byte(strings.Repeat("\xa5", bytes))
		if one, ok := loads[order.load]; ok {
			tell(keep(client, &order, one))
		} else if order.load == "fan-out" {
			fanOut(connect, &others, &order)
		} else {
			fail("no such load: " + order.load)
		}
	}
}

func main() {
	if len(os.Args) != 3 {
		fail("arguments: server|client ADDRESS")
	}
	if os.Args[1] == "server" {
		serve(os.Args[2])
	} else {
		drive(os.Args[2])
	}
}
