// uWebSockets by the C interface of the library that socketify's wheel holds (uWebSockets on libuv): the same code as
// with socketify, and no Python in between. One loop for each thread, which is how uWebSockets scales; each listens with
// SO_REUSEPORT.

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

// The declarations that are needed of native/src/libsocketify.h, which the wheel holds, too.
struct us_socket_context_options_t {
    const char *key_file_name, *cert_file_name, *passphrase, *dh_params_file_name, *ca_file_name, *ssl_ciphers;
    int ssl_prefer_low_memory_usage;
};
struct us_listen_socket_t;
typedef struct uws_app_s uws_app_t;
typedef struct uws_websocket_s uws_websocket_t;
typedef struct {
    int port;
    const char *host;
    int options;
} uws_app_listen_config_t;
typedef struct {
    int compression;
    unsigned int maxPayloadLength;
    unsigned short idleTimeout;
    unsigned int maxBackpressure;
    bool closeOnBackpressureLimit, resetIdleTimeoutOnSend, sendPingsAutomatically;
    unsigned short maxLifetime;
    void *upgrade, *open;
    void (*message)(uws_websocket_t *, const char *, size_t, int opcode, void *user_data);
    void *drain, *ping, *pong, *close, *subscription;
} uws_socket_behavior_t;

uws_app_t *uws_create_app(int ssl, struct us_socket_context_options_t);
void uws_ws(int ssl, uws_app_t *, const char *pattern, uws_socket_behavior_t, void *user_data);
void uws_app_listen_with_config(int ssl, uws_app_t *, uws_app_listen_config_t,
                                void (*)(struct us_listen_socket_t *, uws_app_listen_config_t, void *), void *user_data);
void uws_app_run(int ssl, uws_app_t *);
int uws_ws_send_with_options(int ssl, uws_websocket_t *, const char *, size_t, int opcode, bool compress, bool fin);

static int port;

static void on_message(uws_websocket_t *socket, const char *message, size_t length, int opcode, void *user_data) {
    (void)user_data;
    uws_ws_send_with_options(0, socket, message, length, opcode, false, true);
}

static void on_listening(struct us_listen_socket_t *listening, uws_app_listen_config_t config, void *user_data) {
    (void)config, (void)user_data;
    if (!listening) {
        fprintf(stderr, "cannot listen on port %d\n", port);
        exit(1);
    }
}

static void *serve(void *argument) {
    uws_app_t *app = uws_create_app(0, (struct us_socket_context_options_t){0});
    uws_socket_behavior_t behavior = {
        .maxPayloadLength = 64 << 20, .maxBackpressure = 64 << 20, .message = on_message,
    };
    uws_ws(0, app, "/*", behavior, NULL);
    uws_app_listen_with_config(0, app, (uws_app_listen_config_t){port, "127.0.0.1", 0}, on_listening, NULL);
    uws_app_run(0, app);
    return argument;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s PORT THREADS\n", argv[0]);
        return 2;
    }
    port = atoi(argv[1]);
    for (int i = 1; i < atoi(argv[2]); i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve, NULL)) return 1;
    }
    serve(NULL);
    return 0;
}
