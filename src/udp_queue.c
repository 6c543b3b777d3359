/* SPDX-License-Identifier: Apache-2.0 */
#include "udp_queue.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* Memory beyond this is given back when a queue that had filled is empty again. */
#define KEEP (1024 * 1024)

static void *reserve_memory(size_t size)
{
	void *p =
		mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int udp_queue_init(struct udp_queue *queue, uint32_t max)
{
	memset(queue, 0, sizeof(*queue));
	queue->max = max;
	/* One more for the datagram being written, one for what is lost at the ring's end. */
	queue->data_size = ((size_t)max + 2) * UDP_PAYLOAD_MAX;
	queue->item_size = (size_t)max * sizeof(*queue->item);
	queue->data = reserve_memory(queue->data_size);
	queue->item = reserve_memory(queue->item_size);
	if (queue->data && queue->item)
		return 0;
	udp_queue_free(queue);
	return -ENOMEM;
}

void udp_queue_free(struct udp_queue *queue)
{
	if (queue->data)
		munmap(queue->data, queue->data_size);
	if (queue->item)
		munmap(queue->item, queue->item_size);
	memset(queue, 0, sizeof(*queue));
}

char *udp_queue_reserve(struct udp_queue *queue, uint64_t *dropped)
{
	if (queue->count == queue->max) {
		udp_queue_pop(queue, 1);
		(*dropped)++;
	}
	/* The ring holds more octets than max datagrams can have: the place at `end`, or
	 * at the beginning, is always free. */
	if (queue->end + UDP_PAYLOAD_MAX > queue->data_size)
		queue->end = 0;
	return queue->data + queue->end;
}

void udp_queue_commit(struct udp_queue *queue, size_t length, const struct flow_address *to, uint16_t port)
{
	struct udp_datagram *item = udp_queue_at(queue, queue->count);

	item->offset = queue->end;
	item->length = (uint16_t)length;
	item->port = port;
	if (to)
		item->to = *to;
	queue->end += (uint32_t)length;
	if (queue->end > queue->reach)
		queue->reach = queue->end;
	queue->count++;
}

void udp_queue_pop(struct udp_queue *queue, uint32_t n)
{
	queue->count -= n;
	queue->first += n;
	if (queue->first >= queue->max)
		queue->first -= queue->max;
	if (queue->count > 0)
		return;
	if (queue->reach > KEEP)
		madvise(queue->data, queue->data_size, MADV_DONTNEED);
	queue->first = 0;
	queue->end = 0;
	queue->reach = 0;
}
