// libwebsockets with its libuv event loop (with poll(2), its default, a turn costs time for each connection). Pieces of
// messages are queued as they come and sent from the WRITEABLE callback, as its example minimal-ws-server-echo does it; a
// message that comes in several pieces goes back in as many fragments. Debian's build serves with one thread
// (LWS_MAX_SMP 1), so there is a process for each CPU. It also ignores LWS_SERVER_OPTION_ALLOW_LISTEN_SHARE: each process
// accepts at a listener of its own and hands the sockets to the library.

#define _GNU_SOURCE
#include <libwebsockets.h>

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#define MAX_QUEUED_BYTES (16u << 20) // above it, the connection is not read from

struct piece {
    struct piece *next;
    size_t length;
    enum lws_write_protocol flags;
    unsigned char bytes[]; // LWS_PRE bytes for the header, then the payload
};

struct session {
    struct piece *first, **last;
    size_t queued;
    int is_throttled;
};

// Sends the first piece of the queue.
static int send_piece(struct lws *wsi, struct session *session) {
    struct piece *piece = session->first;
    int sent = lws_write(wsi, piece->bytes + LWS_PRE, piece->length, piece->flags);
    session->first = piece->next;
    if (!session->first) session->last = &session->first;
    session->queued -= piece->length;
    int is_sent = sent >= (int)piece->length;
    free(piece);
    return is_sent;
}

static int on_event(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t length) {
    struct session *session = user;
    struct piece *piece;

    switch (reason) {
    case LWS_CALLBACK_ESTABLISHED:
        memset(session, 0, sizeof *session);
        session->last = &session->first;
        break;
    case LWS_CALLBACK_RECEIVE:
        piece = malloc(sizeof *piece + LWS_PRE + length);
        if (!piece) return -1;
        piece->next = NULL;
        piece->length = length;
        piece->flags = lws_write_ws_flags(lws_frame_is_binary(wsi) ? LWS_WRITE_BINARY : LWS_WRITE_TEXT,
                                          lws_is_first_fragment(wsi), lws_is_final_fragment(wsi));
        memcpy(piece->bytes + LWS_PRE, in, length);
        *session->last = piece;
        session->last = &piece->next;
        session->queued += length;
        if (session->queued > MAX_QUEUED_BYTES && !session->is_throttled) {
            session->is_throttled = 1;
            lws_rx_flow_control(wsi, 0);
        }
        lws_callback_on_writable(wsi);
        break;
    case LWS_CALLBACK_SERVER_WRITEABLE:
        while (session->first) {
            if (!send_piece(wsi, session)) return -1;
            if (lws_send_pipe_choked(wsi)) break;
        }
        if (session->is_throttled && session->queued < MAX_QUEUED_BYTES / 2) {
            session->is_throttled = 0;
            lws_rx_flow_control(wsi, 1);
        }
        if (session->first) lws_callback_on_writable(wsi);
        break;
    case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE: // the answer to the Close frame would overtake what is queued
        while (session->first) {
            if (!send_piece(wsi, session)) return -1;
        }
        break;
    case LWS_CALLBACK_CLOSED:
        while ((piece = session->first)) {
            session->first = piece->next;
            free(piece);
        }
        break;
    default:
        break;
    }
    return 0;
}

// A listener on loopback that shares its port; what it accepts inherits TCP_NODELAY. -1: the port is taken.
static int listen_on(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) ||
        bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) {
        return -1;
    }
    return fd;
}

static void on_acceptable(uv_poll_t *poll, int status, int events) {
    (void)status, (void)events;
    uv_os_fd_t listener;
    uv_fileno((uv_handle_t *)poll, &listener);
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        lws_adopt_socket(poll->data, fd); // closes it if it cannot take it
    }
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s PORT PROCESSES\n", argv[0]);
        return 2;
    }
    for (int i = 1; i < atoi(argv[2]); i++) {
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            break;
        }
    }
    int listener = listen_on(atoi(argv[1]));
    if (listener < 0) {
        perror("cannot listen");
        return 1;
    }
    lws_set_log_level(LLL_ERR, NULL);
    uv_loop_t loop;
    void *loops[] = {&loop};
    uv_loop_init(&loop);
    struct lws_protocols protocols[] = {{"echo", on_event, sizeof(struct session), 0, 0, NULL, 0}, {0}};
    struct lws_context_creation_info info = {
        .port = CONTEXT_PORT_NO_LISTEN_SERVER,
        .protocols = protocols,
        .pt_serv_buf_size = 128 << 10,
        .gid = (gid_t)-1,
        .uid = (uid_t)-1,
        .foreign_loops = loops,
        .options = LWS_SERVER_OPTION_LIBUV | LWS_SERVER_OPTION_SKIP_SERVER_CANONICAL_NAME,
    };
    uv_poll_t poll;
    poll.data = lws_create_context(&info);
    if (!poll.data) return 1;
    uv_poll_init(&loop, &poll, listener);
    uv_poll_start(&poll, UV_READABLE, on_acceptable);
    return uv_run(&loop, UV_RUN_DEFAULT);
}
