// SPDX-License-Identifier: GPL-2.0
/* The states of a migration, VFIO's version 2. */
#include <linux/fs.h>
#include <linux/file.h>
#include <linux/pci.h>

#include "vsva.h"

/* A device that must not access others is stopped: it has no other DMA. */
static const struct {
	enum vfio_device_mig_state from;
	enum vfio_device_mig_state to;
	enum { STEP_NONE, STEP_STOP, STEP_RUN, STEP_SAVE_OPEN, STEP_SAVE_FILL,
	       STEP_SAVE, STEP_STOP_SAVE_FILL, STEP_LOAD_OPEN, STEP_LOAD,
	       STEP_FORGET } step;
} arcs[] = {
	{ VFIO_DEVICE_STATE_RUNNING, VFIO_DEVICE_STATE_STOP, STEP_STOP },
	{ VFIO_DEVICE_STATE_RUNNING, VFIO_DEVICE_STATE_RUNNING_P2P, STEP_STOP },
	{ VFIO_DEVICE_STATE_RUNNING_P2P, VFIO_DEVICE_STATE_STOP, STEP_NONE },
	{ VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_RUNNING_P2P, STEP_NONE },
	{ VFIO_DEVICE_STATE_RUNNING_P2P, VFIO_DEVICE_STATE_RUNNING, STEP_RUN },
	{ VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_RUNNING, STEP_RUN },
	{ VFIO_DEVICE_STATE_RUNNING, VFIO_DEVICE_STATE_PRE_COPY, STEP_SAVE_OPEN },
	{ VFIO_DEVICE_STATE_RUNNING_P2P, VFIO_DEVICE_STATE_PRE_COPY_P2P,
	  STEP_SAVE_OPEN },
	{ VFIO_DEVICE_STATE_PRE_COPY, VFIO_DEVICE_STATE_PRE_COPY_P2P, STEP_STOP },
	{ VFIO_DEVICE_STATE_PRE_COPY_P2P, VFIO_DEVICE_STATE_PRE_COPY, STEP_RUN },
	{ VFIO_DEVICE_STATE_PRE_COPY, VFIO_DEVICE_STATE_STOP_COPY,
	  STEP_STOP_SAVE_FILL },
	{ VFIO_DEVICE_STATE_PRE_COPY_P2P, VFIO_DEVICE_STATE_STOP_COPY,
	  STEP_SAVE_FILL },
	{ VFIO_DEVICE_STATE_PRE_COPY, VFIO_DEVICE_STATE_RUNNING, STEP_FORGET },
	{ VFIO_DEVICE_STATE_PRE_COPY_P2P, VFIO_DEVICE_STATE_RUNNING_P2P,
	  STEP_FORGET },
	{ VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_STOP_COPY, STEP_SAVE },
	{ VFIO_DEVICE_STATE_STOP_COPY, VFIO_DEVICE_STATE_STOP, STEP_FORGET },
	{ VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_RESUMING, STEP_LOAD_OPEN },
	{ VFIO_DEVICE_STATE_RESUMING, VFIO_DEVICE_STATE_STOP, STEP_LOAD },
};

static void streams_disable(struct vsva_vf *vf)
{
	if (vf->saving)
		vsva_stream_disable(vf->saving);
	if (vf->resuming)
		vsva_stream_disable(vf->resuming);
	vf->saving = NULL;
	vf->resuming = NULL;
}

static struct file *save_open(struct vsva_vf *vf)
{
	struct vsva_stream *stream = vsva_stream_to_save(vf);

	if (IS_ERR(stream))
		return ERR_CAST(stream);
	vf->saving = stream;
	return stream->filp;
}

static int save_fill(struct vsva_vf *vf)
{
	if (READ_ONCE(vf->fail.save))
		return -EIO;
	vsva_hw_save(vf, vf->saving->state);
	vsva_stream_complete(vf->saving);
	return 0;
}

static struct file *save(struct vsva_vf *vf)
{
	struct file *filp = save_open(vf);
	int ret;

	if (IS_ERR(filp))
		return filp;
	ret = save_fill(vf);
	if (ret) {
		streams_disable(vf);
		fput(filp);
		return ERR_PTR(ret);
	}
	return filp;
}

static struct file *load_open(struct vsva_vf *vf)
{
	struct vsva_stream *stream = vsva_stream_to_resume(vf);

	if (IS_ERR(stream))
		return ERR_CAST(stream);
	vf->resuming = stream;
	return stream->filp;
}

static int load(struct vsva_vf *vf)
{
	int ret = vsva_stream_check(vf->resuming);

	if (READ_ONCE(vf->fail.load))
		ret = -EIO;
	if (ret) {
		pci_err(vf->core.pdev, "state not loaded: %pe\n", ERR_PTR(ret));
		return ret;
	}
	vsva_hw_load(vf, vf->resuming->state);
	streams_disable(vf);
	return 0;
}

static struct file *take_step(struct vsva_vf *vf, int step)
{
	int ret;

	switch (step) {
	case STEP_NONE:
		return NULL;
	case STEP_STOP:
		return ERR_PTR(vsva_hw_stop(vf));
	case STEP_RUN:
		vsva_hw_run(vf);
		return NULL;
	case STEP_SAVE_OPEN:
		return save_open(vf);
	case STEP_SAVE_FILL:
		return ERR_PTR(save_fill(vf));
	case STEP_STOP_SAVE_FILL:
		ret = vsva_hw_stop(vf);
		if (ret)
			return ERR_PTR(ret);
		ret = save_fill(vf);
		if (ret)
			vsva_hw_run(vf);
		return ERR_PTR(ret);
	case STEP_SAVE:
		return save(vf);
	case STEP_LOAD_OPEN:
		return load_open(vf);
	case STEP_LOAD:
		return ERR_PTR(load(vf));
	case STEP_FORGET:
		streams_disable(vf);
		return NULL;
	}
	return ERR_PTR(-EINVAL);
}

static struct file *take_arc(struct vsva_vf *vf, enum vfio_device_mig_state to)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(arcs); i++) {
		if (arcs[i].from == vf->state && arcs[i].to == to)
			return take_step(vf, arcs[i].step);
	}
	/* vfio_mig_get_next_state() takes no other ones. */
	WARN_ON(true);
	return ERR_PTR(-EINVAL);
}

void vsva_migration_forget(struct vsva_vf *vf)
{
	streams_disable(vf);
	vf->state = VFIO_DEVICE_STATE_RUNNING;
}

/* Also does what a reset that came meanwhile could not do. */
static void state_unlock(struct vsva_vf *vf)
{
	spin_lock(&vf->reset_lock);
	while (vf->deferred_reset) {
		vf->deferred_reset = false;
		spin_unlock(&vf->reset_lock);
		vsva_migration_forget(vf);
		spin_lock(&vf->reset_lock);
	}
	mutex_unlock(&vf->state_mutex);
	spin_unlock(&vf->reset_lock);
}

/*
 * Called with locks held that a change of the state may wait for: who has the
 * state_mutex sees to it then. The device itself is as after power-on.
 */
void vsva_migration_reset_done(struct vsva_vf *vf)
{
	spin_lock(&vf->reset_lock);
	WRITE_ONCE(vf->deferred_reset, true);
	if (!mutex_trylock(&vf->state_mutex)) {
		spin_unlock(&vf->reset_lock);
		return;
	}
	spin_unlock(&vf->reset_lock);
	state_unlock(vf);
}

static struct file *set_state(struct vfio_device *vdev,
			      enum vfio_device_mig_state new)
{
	struct vsva_vf *vf = vsva_vf_of(vdev);
	enum vfio_device_mig_state next;
	struct file *filp = NULL;
	int ret;

	mutex_lock(&vf->state_mutex);
	while (new != vf->state) {
		ret = vfio_mig_get_next_state(vdev, vf->state, new, &next);
		if (ret) {
			filp = ERR_PTR(ret);
			break;
		}
		filp = take_arc(vf, next);
		if (IS_ERR(filp))
			break;
		vf->state = next;
		if (WARN_ON(filp && new != vf->state)) {
			fput(filp);
			filp = ERR_PTR(-EINVAL);
			break;
		}
	}
	state_unlock(vf);
	return filp;
}

static int get_state(struct vfio_device *vdev,
		     enum vfio_device_mig_state *state)
{
	struct vsva_vf *vf = vsva_vf_of(vdev);

	mutex_lock(&vf->state_mutex);
	*state = vf->state;
	state_unlock(vf);
	return 0;
}

static int get_data_size(struct vfio_device *vdev, unsigned long *length)
{
	*length = sizeof(struct vsva_state);
	return 0;
}

const struct vfio_migration_ops vsva_migration_ops = {
	.migration_set_state = set_state,
	.migration_get_state = get_state,
	.migration_get_data_size = get_data_size,
};

u64 vsva_migration_flags(void)
{
	return VFIO_MIGRATION_STOP_COPY |
	       (vsva_p2p ? VFIO_MIGRATION_P2P : 0) |
	       (vsva_pre_copy ? VFIO_MIGRATION_PRE_COPY : 0);
}

void vsva_migration_init(struct vsva_vf *vf)
{
	mutex_init(&vf->state_mutex);
	spin_lock_init(&vf->reset_lock);
	vf->state = VFIO_DEVICE_STATE_RUNNING;
}
