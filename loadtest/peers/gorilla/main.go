// gorilla/websocket: no compression (unless DEFLATE is set: then its default level 1, no context), buffers of the HTTP server reused (the default), one for the messages of a connection (ReadMessage allocates anew), one write for each message. Go's
// scheduler gets as many threads as the server has CPUs.
package main

import (
	"bytes"
	"log"
	"net/http"
	"os"
	"runtime"
	"strconv"

	"github.com/gorilla/websocket"
)

var upgrader = websocket.Upgrader{
	CheckOrigin:       func(*http.Request) bool { return true },
	EnableCompression: os.Getenv("DEFLATE") != "",
}

func echo(w http.ResponseWriter, r *http.Request) {
	socket, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer socket.Close()
	socket.SetReadLimit(64 << 20)
	var message bytes.Buffer
	for {
		kind, reader, err := socket.NextReader()
		if err != nil {
			return
		}
		message.Reset()
		if _, err := message.ReadFrom(reader); err != nil {
			return
		}
		if err := socket.WriteMessage(kind, message.Bytes()); err != nil {
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
