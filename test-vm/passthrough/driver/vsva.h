/* SPDX-License-Identifier: GPL-2.0 */
/* VFIO variant driver for the vsva test device: what its files share. */
#ifndef VSVA_H
#define VSVA_H

#include <linux/mutex.h>
#include <linux/sizes.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/vfio.h>
#include <linux/vfio_pci_core.h>

#define VSVA_BAR_REGS		0
#define VSVA_BAR_PORTAL		2
#define VSVA_BAR_HOST		4

#define VSVA_COUNTERS		11
#define VSVA_PORTAL_SIZE	SZ_4M

/* All that a device is that has been stopped, in the order of the stream. */
struct vsva_header {
	__le32 magic;
	__le32 version;
	__le64 size;		/* of vsva_state */
};

struct vsva_state {
	struct vsva_header header;
	__le32 ctrl;
	__le32 reserved;
	__le64 next;
	__le64 counters[VSVA_COUNTERS];
	u8 portal[VSVA_PORTAL_SIZE];
};

/* The file that user space reads or writes the state by. */
struct vsva_stream {
	struct file *filp;
	struct vsva_vf *vf;
	struct mutex lock;	/* all that follows */
	struct vsva_state *state;
	size_t ready;		/* bytes that can be read, or be written */
	size_t done;		/* bytes that have been */
	bool more;		/* after what is ready more will come */
	bool disabled;
};

/* To be injected, by files in debugfs. */
struct vsva_failures {
	bool stop;		/* the engine seems never to be quiet */
	bool read;		/* of the portal: waits for as long as it is set */
	bool save;
	bool write;		/* of the state, by user space */
	bool load;
};

struct vsva_vf {
	struct vfio_pci_core_device core;
	struct mutex state_mutex;	/* state and the streams */
	enum vfio_device_mig_state state;
	struct vsva_stream *saving;
	struct vsva_stream *resuming;
	spinlock_t reset_lock;		/* deferred_reset */
	bool deferred_reset;
	struct vsva_failures fail;
};

extern bool vsva_p2p;
extern bool vsva_pre_copy;
extern unsigned int vsva_stop_timeout_ms;

static inline struct vsva_vf *vsva_vf_of(struct vfio_device *vdev)
{
	return container_of(vdev, struct vsva_vf, core.vdev);
}

/* hardware.c */
/* No new request is taken, and those in flight have ended; within a bound. */
int vsva_hw_stop(struct vsva_vf *vf);
void vsva_hw_run(struct vsva_vf *vf);
/* Of a device that has been stopped. */
void vsva_hw_save(struct vsva_vf *vf, struct vsva_state *state);
void vsva_hw_load(struct vsva_vf *vf, const struct vsva_state *state);

/* stream.c */
void vsva_header_fill(struct vsva_header *header);
struct vsva_stream *vsva_stream_to_save(struct vsva_vf *vf);
struct vsva_stream *vsva_stream_to_resume(struct vsva_vf *vf);
/* The whole state can be read now. */
void vsva_stream_complete(struct vsva_stream *stream);
/* 0: all of it has been written, and it is a state of such a device. */
int vsva_stream_check(struct vsva_stream *stream);
void vsva_stream_disable(struct vsva_stream *stream);

/* migration.c */
extern const struct vfio_migration_ops vsva_migration_ops;
u64 vsva_migration_flags(void);
void vsva_migration_init(struct vsva_vf *vf);
void vsva_migration_forget(struct vsva_vf *vf);
void vsva_migration_reset_done(struct vsva_vf *vf);

#endif
