// Boost.Beast with callbacks, as in its example websocket_server_fast: no compression, no fragments, no limit on time. An
// io_context for each thread with a concurrency hint of 1 (no locks), each with a listener of its own (SO_REUSEPORT); the
// executor's type is known to the compiler.

#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/websocket.hpp>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace websocket = beast::websocket;
using asio::ip::tcp;
using Socket = asio::basic_stream_socket<tcp, asio::io_context::executor_type>;
using Acceptor = asio::basic_socket_acceptor<tcp, asio::io_context::executor_type>;

class Session : public std::enable_shared_from_this<Session> {
public:
    explicit Session(Socket &&socket) : ws(std::move(socket)) {}

    void start() {
        websocket::permessage_deflate off;
        off.server_enable = false;
        ws.set_option(off);
        ws.auto_fragment(false);
        ws.read_message_max(64 << 20);
        ws.async_accept([self = shared_from_this()](beast::error_code error) {
            if (!error) self->read();
        });
    }

private:
    void read() {
        ws.async_read(buffer, [self = shared_from_this()](beast::error_code error, std::size_t) {
            if (!error) self->write();
        });
    }

    void write() {
        ws.text(ws.got_text());
        ws.async_write(buffer.data(), [self = shared_from_this()](beast::error_code error, std::size_t) {
            if (error) return;
            self->buffer.consume(self->buffer.size());
            self->read();
        });
    }

    websocket::stream<Socket, false> ws;
    beast::flat_buffer buffer;
};

static void accept(Acceptor &acceptor) {
    acceptor.async_accept([&acceptor](beast::error_code error, Socket socket) {
        if (!error) {
            socket.set_option(tcp::no_delay(true));
            std::make_shared<Session>(std::move(socket))->start();
        }
        accept(acceptor);
    });
}

static void serve(unsigned short port) {
    asio::io_context context(1);
    Acceptor acceptor(context.get_executor());
    acceptor.open(tcp::v4());
    acceptor.set_option(asio::socket_base::reuse_address(true));
    acceptor.set_option(asio::detail::socket_option::boolean<SOL_SOCKET, SO_REUSEPORT>(true));
    acceptor.bind({asio::ip::make_address("127.0.0.1"), port});
    acceptor.listen(4096);
    accept(acceptor);
    context.run();
}

int main(int argc, char **argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: %s PORT THREADS\n", argv[0]);
        return 2;
    }
    std::vector<std::thread> threads;
    for (int i = 0; i < std::atoi(argv[2]); i++) threads.emplace_back(serve, std::atoi(argv[1]));
    for (auto &thread : threads) thread.join();
}
