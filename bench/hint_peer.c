/* The least that can answer a hint: wait, read standard input, send one prepared frame.
 *
 *     hint_peer INTERFACE FRAME
 *
 * FRAME is hexadecimal.  The yardstick of bench/hints.py; an error ends it.
 */
#include <err.h>
#include <net/if.h>
#include <linux/if_packet.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **arguments)
{
	struct sockaddr_ll link = { .sll_family = AF_PACKET };
	struct epoll_event event = { .events = EPOLLIN };
	int packet = socket(AF_PACKET, SOCK_RAW, 0), waiting = epoll_create1(0);
	unsigned char frame[60] = { 0 };
	char data[4096];
	ssize_t got;

	if (count != 3)
		errx(2, "usage: hint_peer INTERFACE FRAME");
	for (size_t byte = 0; byte < sizeof(frame); byte++)
		if (sscanf(arguments[2] + 2 * byte, "%2hhx", &frame[byte]) != 1)
			errx(2, "the frame must have 60 bytes");
	link.sll_ifindex = if_nametoindex(arguments[1]);
	if (bind(packet, (struct sockaddr *)&link, sizeof(link)) < 0)
		err(1, "%s", arguments[1]);
	epoll_ctl(waiting, EPOLL_CTL_ADD, STDIN_FILENO, &event);
	while (epoll_wait(waiting, &event, 1, -1) == 1) {
		got = read(STDIN_FILENO, data, sizeof(data));
		if (got <= 0)
			return 0;
		if (memchr(data, '\n', got) && send(packet, frame, sizeof(frame), 0) < 0)
			err(1, "send");
	}
	return 1;
}
