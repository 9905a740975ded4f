/* The service in the benchmark's containers: a static program, so that its image is this file alone.
 *
 * Serves HTTP/1.1 on port 8000, a thread for each connection. WORK_MS is what a request takes, START_MS passes before
 * it listens, BAD=health has it fail its health check (/health), BAD=500 all else. On SIGTERM it serves on for
 * LAST_MS, as a service does that is told to end and knows that a proxy needs a moment to hear of it. X-Endpoint is its
 * host name, which is the beginning of the container's id; X-Arrived is when it had the head, by CLOCK_MONOTONIC. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char host[65];
static const char *bad = "";
static int work_ms;

static int number(const char *name, int usual) {
    const char *text = getenv(name);
    return text ? atoi(text) : usual;
}

static void pause_ms(int ms) {
    struct timespec left = {ms / 1000, ms % 1000 * 1000000L};
    while (nanosleep(&left, &left)) {
    }
}

static void *serve(void *argument) {
    int connection = (int)(long)argument;
    char head[8192];
    size_t filled = 0;
    for (;;) {
        ssize_t count = read(connection, head + filled, sizeof head - 1 - filled);
        if (count <= 0)
            break;
        filled += (size_t)count;
        head[filled] = 0;
        if (!strstr(head, "\r\n\r\n")) /* requests come one at a time and have no body */
            continue;
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        int is_check = !strncmp(head, "GET /health ", 12);
        int is_bad = is_check ? !strcmp(bad, "health") : !strcmp(bad, "500");
        if (!is_check)
            pause_ms(work_ms);
        char answer[512];
        int length = snprintf(answer, sizeof answer,
                              "HTTP/1.1 %s\r\nX-Endpoint: %.12s\r\nX-Arrived: %ld.%09ld\r\nContent-Length: 3\r\n\r\nok\n",
                              is_bad ? "500 Internal Server Error" : "200 OK", host, (long)now.tv_sec, now.tv_nsec);
        if (write(connection, answer, (size_t)length) != length)
            break;
        filled = 0;
    }
    close(connection);
    return NULL;
}

static void *await_end(void *argument) {
    int signal_number;
    sigwait(argument, &signal_number);
    pause_ms(number("LAST_MS", 500));
    _exit(0);
}

int main(void) {
    sigset_t ending;
    sigemptyset(&ending);
    sigaddset(&ending, SIGTERM);
    sigprocmask(SIG_BLOCK, &ending, NULL);
    signal(SIGPIPE, SIG_IGN);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 * 1024);
    pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
    pthread_t thread;
    pthread_create(&thread, &small, await_end, &ending);
    gethostname(host, sizeof host - 1);
    if (getenv("BAD"))
        bad = getenv("BAD");
    work_ms = number("WORK_MS", 10);
    pause_ms(number("START_MS", 0));
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(8000)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 512)) {
        perror("listen on port 8000");
        return 1;
    }
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        if (connection < 0)
            continue;
        setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        if (pthread_create(&thread, &small, serve, (void *)(long)connection))
            close(connection);
    }
}
