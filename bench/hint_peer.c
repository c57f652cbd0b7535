/* The least that can answer a hint: wait, read, send one prepared frame.
 *
 *     hint_peer PATH INTERFACE FRAME
 *
 * PATH is a Unix socket or a terminal line, FRAME hexadecimal.  The yardstick of
 * bench/hint_latency.py; no error is handled but by ending.
 */
#include <err.h>
#include <fcntl.h>
#include <net/if.h>
#include <linux/if_packet.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

static int open_port(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct termios line;
	struct stat status;
	int port;

	if (stat(path, &status) < 0)
		err(1, "%s", path);
	if (S_ISSOCK(status.st_mode)) {
		port = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
		strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
		if (connect(port, (struct sockaddr *)&address, sizeof(address)) < 0)
			err(1, "%s", path);
		return port;
	}
	port = open(path, O_RDWR | O_NONBLOCK | O_NOCTTY);
	if (port < 0 || tcgetattr(port, &line) < 0)
		err(1, "%s", path);
	cfmakeraw(&line);
	tcsetattr(port, TCSANOW, &line);
	return port;
}

int main(int count, char **arguments)
{
	struct sockaddr_ll link = { .sll_family = AF_PACKET };
	struct epoll_event event = { .events = EPOLLIN };
	unsigned char frame[60] = { 0 };
	char data[4096];
	ssize_t got;
	int port, packet, waiting;

	if (count != 4)
		errx(2, "usage: hint_peer PATH INTERFACE FRAME");
	for (size_t byte = 0; byte < sizeof(frame); byte++)
		if (sscanf(arguments[3] + 2 * byte, "%2hhx", &frame[byte]) != 1)
			errx(2, "the frame must have 60 bytes");
	link.sll_ifindex = if_nametoindex(arguments[2]);
	packet = socket(AF_PACKET, SOCK_RAW, 0);
	if (packet < 0 || bind(packet, (struct sockaddr *)&link, sizeof(link)) < 0)
		err(1, "%s", arguments[2]);
	port = open_port(arguments[1]);
	waiting = epoll_create1(0);
	epoll_ctl(waiting, EPOLL_CTL_ADD, port, &event);
	while (epoll_wait(waiting, &event, 1, -1) == 1) {
		got = read(port, data, sizeof(data));
		if (got <= 0)
			return 0;
		if (memchr(data, '\n', got) && send(packet, frame, sizeof(frame), 0) < 0)
			err(1, "send");
	}
	return 1;
}
