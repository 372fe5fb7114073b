// A client of grpc-go. Argument: the target. lines.mjs says what it is asked, and what it answers.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang/protobuf/proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

type asked struct {
	Path                             string
	ClientStreaming, ServerStreaming bool
	Requests                         [][]byte
	Metadata                         [][2]string
	Timeout                          *float64
	Alternate, Open, Slow            bool
	Clients, Each, AtOnce            int
}

type outcome struct {
	Code      uint32      `json:"code"`
	Message   string      `json:"message"`
	Status    []byte      `json:"status,omitempty"`
	Count     int         `json:"count"`
	Responses [][]byte    `json:"responses"`
	Initial   [][2]string `json:"initial"`
	Trailing  [][2]string `json:"trailing"`
}

// Messages are bytes here.
type raw struct{}

func (raw) Marshal(message interface{}) ([]byte, error) { return message.([]byte), nil }
func (raw) Unmarshal(data []byte, message interface{}) error {
	*message.(*[]byte) = append([]byte{}, data...)
	return nil
}
func (raw) Name() string { return "proto" }

var goOn = make(chan struct{})

func tell(what interface{}) {
	line, err := json.Marshal(what)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

func pairs(md metadata.MD) [][2]string {
	found := [][2]string{}
	for key, values := range md {
		for _, value := range values {
			if key == "grpc-status-details-bin" {
				continue
			}
			if strings.HasSuffix(key, "-bin") {
				value = base64.StdEncoding.EncodeToString([]byte(value))
			}
			found = append(found, [2]string{key, value})
		}
	}
	return found
}

func run(ctx context.Context, client *grpc.ClientConn, call asked) outcome {
	if call.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*call.Timeout*float64(time.Second)))
		defer cancel()
	}
	for _, pair := range call.Metadata {
		value := pair[1]
		if strings.HasSuffix(pair[0], "-bin") {
			bytes, _ := base64.StdEncoding.DecodeString(value)
			value = string(bytes)
		}
		ctx = metadata.AppendToOutgoingContext(ctx, pair[0], value)
	}
	var initial, trailing metadata.MD
	result := outcome{Responses: [][]byte{}}
	var err error
	if call.ClientStreaming || call.ServerStreaming {
		err = stream(ctx, client, call, &result, &initial, &trailing)
	} else {
		var response []byte
		err = client.Invoke(ctx, call.Path, call.Requests[0], &response, grpc.ForceCodec(raw{}),
			grpc.Header(&initial), grpc.Trailer(&trailing))
		if err == nil {
			result.Count, result.Responses = 1, append(result.Responses, response)
		}
	}
	ended := status.Convert(err)
	result.Code, result.Message = uint32(ended.Code()), ended.Message()
	if len(ended.Details()) > 0 {
		result.Status, _ = proto.Marshal(ended.Proto())
	}
	result.Initial, result.Trailing = pairs(initial), pairs(trailing)
	return result
}

func stream(ctx context.Context, client *grpc.ClientConn, call asked, result *outcome, initial, trailing *metadata.MD) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	description := grpc.StreamDesc{ClientStreams: call.ClientStreaming, ServerStreams: call.ServerStreaming}
	opened, err := client.NewStream(ctx, &description, call.Path, grpc.ForceCodec(raw{}))
	if err != nil {
		return err
	}
	requests := call.Requests
	// An error of sending is told by receiving.
	send := func() {
		if len(requests) > 0 {
			opened.SendMsg(requests[0])
			requests = requests[1:]
		} else if !call.Open {
			opened.CloseSend()
		}
	}
	send()
	if !call.Alternate {
		go func() {
			for left := len(requests); left >= 0; left-- {
				send()
			}
		}()
	}
	for {
		var response []byte
		err = opened.RecvMsg(&response)
		if err != nil {
			break
		}
		result.Count++
		if !call.Slow || result.Count == 1 {
			result.Responses = append(result.Responses, response)
		}
		if call.Slow && result.Count == 1 {
			tell(map[string]bool{"first": true})
			<-goOn
		}
		if call.Alternate {
			send()
		}
	}
	*initial, _ = opened.Header()
	*trailing = opened.Trailer()
	if err == io.EOF {
		return nil
	}
	return err
}

var stopped atomic.Bool

func load(target string, call asked) map[string]interface{} {
	codes, messages := map[uint32]int{}, map[uint32]string{}
	going := map[string]int{}
	var lock sync.Mutex
	var lanes sync.WaitGroup
	count := func(what string) {
		going[what]++
		if call.Each == 0 && going[what] == call.Clients*call.AtOnce {
			tell(map[string]bool{what: true})
		}
	}
	lane := func(client *grpc.ClientConn) {
		defer lanes.Done()
		succeeded, failed, recovered := false, false, false
		for left := call.Each / call.AtOnce; (left > 0 || call.Each == 0) && !stopped.Load(); left-- {
			ended := run(context.Background(), client, call)
			lock.Lock()
			codes[ended.Code]++
			messages[ended.Code] = ended.Message
			if ended.Code != 0 {
				failed = true
			} else if failed && !recovered {
				recovered = true
				count("again")
			} else if !succeeded && !failed {
				succeeded = true
				count("first")
			}
			lock.Unlock()
		}
	}
	for number := 0; number < call.Clients; number++ {
		client := connect(target)
		for index := 0; index < call.AtOnce; index++ {
			lanes.Add(1)
			go lane(client)
		}
	}
	lanes.Wait()
	return map[string]interface{}{"codes": codes, "messages": messages}
}

func connect(target string) *grpc.ClientConn {
	client, err := grpc.Dial(target, grpc.WithInsecure())
	if err != nil {
		panic(err)
	}
	return client
}

func main() {
	lines := bufio.NewReaderSize(os.Stdin, 1<<20)
	line, err := lines.ReadBytes('\n')
	if err != nil {
		panic(err)
	}
	var call asked
	if err := json.Unmarshal(line, &call); err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	// The process lives on, as an application does: its end would end its connections.
	ended := make(chan struct{})
	go func() {
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				close(ended)
				return
			}
			if line == "cancel\n" {
				cancel()
			} else if line == "stop\n" {
				stopped.Store(true)
			} else {
				close(goOn)
			}
		}
	}()
	if call.Clients > 0 {
		tell(load(os.Args[1], call))
	} else {
		tell(run(ctx, connect(os.Args[1]), call))
	}
	<-ended
}
