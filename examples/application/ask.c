/* Asks a model on this device by the agent's Unix socket, without a library: one row of numbers in, the agent's JSON out.
 *
 *   cc -O2 -o ask ask.c
 *   ./ask /run/edge-agent/api.sock digits image 64 0 0 5 13 9 1 …
 *
 * The agent is started with `edge-agent run --uds /run/edge-agent/api.sock`; whoever asks is in the socket's group.
 * Arguments: the socket, the model, its input's name, how many numbers one row has, and the row. `GET /v2/models/MODEL`
 * says name, datatype and shape; FP32 is assumed here.
 *
 * Exit code: 0 answered; 1 the agent refused, and its answer says why; 2 usage; 3 no agent; 75 busy, try again later.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { BODY = 1 << 20, HEAD = 1024, ANSWER = 4 << 20, SECONDS = 5 };

/* Connect, and wait for nothing longer than SECONDS; -1 with errno. */
static int connect_to(const char *path) {
    struct sockaddr_un where = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = SECONDS};
    if (strlen(path) >= sizeof where.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(where.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0) return -1;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) != 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) != 0 ||
        connect(fd, (struct sockaddr *)&where, sizeof where) != 0) {
        int why = errno;
        close(fd);
        errno = why;
        return -1;
    }
    return fd;
}

/* All of it; -1 with errno. */
static int send_all(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return -1;
        data += sent;
        size -= (size_t)sent;
    }
    return 0;
}

/* Up to the end, which is where the agent closes; -1 with errno, EMSGSIZE where there is more than room. */
static ssize_t read_all(int fd, char *room, size_t size) {
    size_t got = 0;
    for (;;) {
        if (got + 1 >= size) {
            errno = EMSGSIZE;
            return -1;
        }
        ssize_t more = recv(fd, room + got, size - 1 - got, 0);
        if (more < 0 && errno == EINTR) continue;
        if (more < 0) return -1;
        if (more == 0) break;
        got += (size_t)more;
    }
    room[got] = '\0';
    return (ssize_t)got;
}

/* A name that needs no escape in a path or in JSON. */
static int is_plain(const char *name) {
    return name[0] != '\0' && strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") == strlen(name);
}

/* The body of a request for one row; its size, or 0 where a number is none or there is no room. */
static size_t write_body(char *room, const char *input, char **numbers, long count) {
    int used = snprintf(room, BODY, "{\"inputs\":[{\"name\":\"%s\",\"datatype\":\"FP32\",\"shape\":[1,%ld],\"data\":[", input, count);
    for (long i = 0; i < count; i++) {
        char *end;
        double number = strtod(numbers[i], &end);
        if (end == numbers[i] || *end != '\0' || number != number || number - number != 0) return 0; /* NaN, infinity */
        used += snprintf(room + used, (size_t)(BODY - used), i ? ",%.9g" : "%.9g", number);
        if (used + 64 > BODY) return 0;
    }
    used += snprintf(room + used, (size_t)(BODY - used), "]}]}");
    return (size_t)used;
}

int main(int argc, char **argv) {
    static char body[BODY], head[HEAD], answer[ANSWER];
    long count = argc > 4 ? strtol(argv[4], NULL, 10) : 0;
    if (count < 1 || argc != 5 + count || !is_plain(argv[2]) || !is_plain(argv[3])) {
        fprintf(stderr, "usage: ask SOCKET MODEL INPUT COUNT NUMBER…\n");
        return 2;
    }
    size_t size = write_body(body, argv[3], argv + 5, count);
    if (size == 0) {
        fprintf(stderr, "ask: not a row of numbers\n");
        return 2;
    }
    int used = snprintf(head, HEAD,
                        "POST /v2/models/%s/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                        "Content-Length: %zu\r\nConnection: close\r\n\r\n", argv[2], size);
    if (used < 0 || used >= HEAD) return 2;
    int fd = connect_to(argv[1]);
    if (fd < 0) {
        fprintf(stderr, "ask: no agent at %s: %s\n", argv[1], strerror(errno));
        return 3;
    }
    if (send_all(fd, head, (size_t)used) != 0 || send_all(fd, body, size) != 0 || read_all(fd, answer, ANSWER) < 0) {
        fprintf(stderr, "ask: %s\n", strerror(errno));
        close(fd);
        return 3;
    }
    close(fd);
    int status = 0;
    char *content = strstr(answer, "\r\n\r\n");
    if (sscanf(answer, "HTTP/1.%*d %d", &status) != 1 || content == NULL) {
        fprintf(stderr, "ask: that is no HTTP answer\n");
        return 3;
    }
    fprintf(status == 200 ? stdout : stderr, "%s\n", content + 4);
    return status == 200 ? 0 : status == 503 || status == 429 ? 75 : 1;
}
