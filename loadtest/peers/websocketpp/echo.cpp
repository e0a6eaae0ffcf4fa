// WebSocket++ on Asio: no logging, no locks (concurrency::none: an endpoint for each thread, with a listener of its own),
// no compression (the default). Its message buffers are reused by the library; a message is sent back as it came.

#include <websocketpp/concurrency/none.hpp>
#include <websocketpp/config/asio_no_tls.hpp>
#include <websocketpp/logger/stub.hpp>
#include <websocketpp/server.hpp>

#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

struct Config : websocketpp::config::asio {
    using concurrency_type = websocketpp::concurrency::none;
    using alog_type = websocketpp::log::stub;
    using elog_type = websocketpp::log::stub;
    struct transport_config : websocketpp::config::asio::transport_config {
        using concurrency_type = websocketpp::concurrency::none;
        using alog_type = websocketpp::log::stub;
        using elog_type = websocketpp::log::stub;
        static bool const enable_multithreading = false;
    };
    using transport_type = websocketpp::transport::asio::endpoint<transport_config>;
    static const size_t max_message_size = 64 << 20;
    static const size_t connection_read_buffer_size = 16384;
};
using Server = websocketpp::server<Config>;

static void serve(unsigned short port) {
    Server server;
    server.init_asio();
    server.set_reuse_addr(true);
    server.set_listen_backlog(4096);
    server.set_max_message_size(64 << 20);
    server.set_tcp_pre_bind_handler([](Server::transport_type::acceptor_ptr acceptor) {
        websocketpp::lib::error_code ignored;
        boost::system::error_code error;
        acceptor->set_option(boost::asio::detail::socket_option::boolean<SOL_SOCKET, SO_REUSEPORT>(true), error);
        return ignored;
    });
    server.set_tcp_post_init_handler([&server](websocketpp::connection_hdl handle) {
        boost::system::error_code error;
        server.get_con_from_hdl(handle)->get_raw_socket().set_option(boost::asio::ip::tcp::no_delay(true), error);
    });
    server.set_message_handler([&server](websocketpp::connection_hdl handle, Server::message_ptr message) {
        websocketpp::lib::error_code error;
        server.send(handle, message->get_payload(), message->get_opcode(), error);
    });
    server.listen(boost::asio::ip::tcp::endpoint(boost::asio::ip::make_address("127.0.0.1"), port));
    server.start_accept();
    server.run();
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
