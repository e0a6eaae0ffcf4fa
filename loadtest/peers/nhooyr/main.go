// nhooyr.io/websocket, now coder/websocket: no compression (with DEFLATE set: without context, messages of any size), messages copied from reader to writer with a buffer of the
// connection, as in its echo example (less that one's rate limit).
package main

import (
	"context"
	"io"
	"log"
	"net/http"
	"os"
	"runtime"
	"strconv"

	"nhooyr.io/websocket"
)

func echo(w http.ResponseWriter, r *http.Request) {
	options := websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled, InsecureSkipVerify: true}
	if os.Getenv("DEFLATE") != "" {
		options.CompressionMode, options.CompressionThreshold = websocket.CompressionNoContextTakeover, 1
	}
	socket, err := websocket.Accept(w, r, &options)
	if err != nil {
		return
	}
	defer socket.Close(websocket.StatusInternalError, "")
	socket.SetReadLimit(64 << 20)
	ctx := context.Background()
	buffer := make([]byte, 32<<10)
	for {
		kind, reader, err := socket.Reader(ctx)
		if err != nil {
			return
		}
		writer, err := socket.Writer(ctx, kind)
		if err != nil {
			return
		}
		// The wrapping struct hides methods that would make CopyBuffer allocate a buffer of its own.
		if _, err := io.CopyBuffer(struct{ io.Writer }{writer}, reader, buffer); err != nil {
			return
		}
		if err := writer.Close(); err != nil {
			return
		}
	}
}

func main() {
	threads, err := strconv.Atoi(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	runtime.GOMAXPROCS(threads)
	http.HandleFunc("/", echo)
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
