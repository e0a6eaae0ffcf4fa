// uWebSockets from its source, as in its examples/EchoServer.cpp; one App for each thread.
#include <App.h>

#include <cstdlib>
#include <thread>
#include <vector>

struct Data {};

static void serve(int port) {
    uWS::App()
        .ws<Data>("/*", {
            .compression = uWS::DISABLED,
            .maxPayloadLength = 64 << 20,
            .idleTimeout = 0,
            .maxBackpressure = 64 << 20,
            .message = [](auto *socket, std::string_view message, uWS::OpCode opcode) { socket->send(message, opcode); },
        })
        .listen("127.0.0.1", port, [](auto *listening) {
            if (!listening) std::exit(1);
        })
        .run();
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    std::vector<std::thread> threads;
    for (int i = 0; i < std::atoi(argv[2]); i++) threads.emplace_back(serve, std::atoi(argv[1]));
    for (auto &thread : threads) thread.join();
}
