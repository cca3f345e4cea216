// SPDX-License-Identifier: GPL-2.0
/* The file by which user space reads the state of a device, or writes it. */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "vsva.h"

#define MAGIC	0x41535656
#define VERSION	1

void vsva_header_fill(struct vsva_header *header)
{
	header->magic = cpu_to_le32(MAGIC);
	header->version = cpu_to_le32(VERSION);
	header->size = cpu_to_le64(sizeof(struct vsva_state));
}

static bool header_matches(const struct vsva_header *header)
{
	struct vsva_header ours;

	vsva_header_fill(&ours);
	return !memcmp(header, &ours, sizeof(ours));
}

static int stream_release(struct inode *inode, struct file *filp)
{
	struct vsva_stream *stream = filp->private_data;

	mutex_destroy(&stream->lock);
	vfree(stream->state);
	kfree(stream);
	return 0;
}

static ssize_t stream_read(struct file *filp, char __user *buf, size_t len,
			   loff_t *pos)
{
	struct vsva_stream *stream = filp->private_data;
	ssize_t ret;

	if (pos)
		return -ESPIPE;
	mutex_lock(&stream->lock);
	len = min(len, stream->ready - stream->done);
	if (stream->disabled) {
		ret = -ENODEV;
	} else if (!len && stream->more) {
		ret = -ENOMSG;
	} else if (copy_to_user(buf, (u8 *)stream->state + stream->done, len)) {
		ret = -EFAULT;
	} else {
		stream->done += len;
		ret = len;
	}
	mutex_unlock(&stream->lock);
	return ret;
}

static ssize_t stream_write(struct file *filp, const char __user *buf,
			    size_t len, loff_t *pos)
{
	struct vsva_stream *stream = filp->private_data;
	ssize_t ret;

	if (pos)
		return -ESPIPE;
	mutex_lock(&stream->lock);
	if (stream->disabled) {
		ret = -ENODEV;
	} else if (READ_ONCE(stream->vf->fail.write)) {
		ret = -EIO;
	} else if (len > stream->ready - stream->done) {
		ret = -ENOSPC;
	} else if (copy_from_user((u8 *)stream->state + stream->done, buf,
				  len)) {
		ret = -EFAULT;
	} else {
		stream->done += len;
		ret = len;
	}
	/* As early as it is known. */
	if (ret > 0 && stream->done >= sizeof(stream->state->header) &&
	    !header_matches(&stream->state->header))
		ret = -EINVAL;
	mutex_unlock(&stream->lock);
	return ret;
}

static long stream_ioctl(struct file *filp, unsigned int cmd, unsigned long arg)
{
	struct vsva_stream *stream = filp->private_data;
	struct vfio_precopy_info info;
	long ret;

	ret = vfio_check_precopy_ioctl(&stream->vf->core.vdev, cmd, arg, &info);
	if (ret)
		return ret;

	mutex_lock(&stream->lock);
	if (stream->disabled)
		ret = -ENODEV;
	else if (!stream->more)
		ret = -EINVAL;
	info.initial_bytes = stream->ready - stream->done;
	info.dirty_bytes = 0;
	mutex_unlock(&stream->lock);
	if (ret)
		return ret;
	return copy_to_user((void __user *)arg, &info,
			    offsetofend(struct vfio_precopy_info, dirty_bytes)) ?
	       -EFAULT : 0;
}

static const struct file_operations save_fops = {
	.owner = THIS_MODULE,
	.read = stream_read,
	.unlocked_ioctl = stream_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.release = stream_release,
};

static const struct file_operations resume_fops = {
	.owner = THIS_MODULE,
	.write = stream_write,
	.release = stream_release,
};

/* With a reference for the driver besides the one that user space gets. */
static struct vsva_stream *stream_new(struct vsva_vf *vf,
				      const struct file_operations *fops,
				      int flags)
{
	struct vsva_stream *stream;
	int ret = -ENOMEM;

	stream = kzalloc_obj(*stream, GFP_KERNEL_ACCOUNT);
	if (!stream)
		return ERR_PTR(-ENOMEM);
	stream->state = __vmalloc(sizeof(*stream->state),
				  GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	if (!stream->state)
		goto free_stream;
	stream->filp = anon_inode_getfile("vsva_mig", fops, stream, flags);
	if (IS_ERR(stream->filp)) {
		ret = PTR_ERR(stream->filp);
		goto free_state;
	}
	stream_open(stream->filp->f_inode, stream->filp);
	mutex_init(&stream->lock);
	stream->vf = vf;
	get_file(stream->filp);
	return stream;

free_state:
	vfree(stream->state);
free_stream:
	kfree(stream);
	return ERR_PTR(ret);
}

struct vsva_stream *vsva_stream_to_save(struct vsva_vf *vf)
{
	struct vsva_stream *stream = stream_new(vf, &save_fops, O_RDONLY);

	if (!IS_ERR(stream)) {
		vsva_header_fill(&stream->state->header);
		stream->ready = sizeof(stream->state->header);
		stream->more = true;
	}
	return stream;
}

struct vsva_stream *vsva_stream_to_resume(struct vsva_vf *vf)
{
	struct vsva_stream *stream = stream_new(vf, &resume_fops, O_WRONLY);

	if (!IS_ERR(stream))
		stream->ready = sizeof(*stream->state);
	return stream;
}

void vsva_stream_complete(struct vsva_stream *stream)
{
	mutex_lock(&stream->lock);
	stream->ready = sizeof(*stream->state);
	stream->more = false;
	mutex_unlock(&stream->lock);
}

int vsva_stream_check(struct vsva_stream *stream)
{
	int ret = 0;

	mutex_lock(&stream->lock);
	if (stream->done != sizeof(*stream->state) ||
	    !header_matches(&stream->state->header) || stream->state->reserved)
		ret = -EINVAL;
	mutex_unlock(&stream->lock);
	return ret;
}

void vsva_stream_disable(struct vsva_stream *stream)
{
	mutex_lock(&stream->lock);
	stream->disabled = true;
	mutex_unlock(&stream->lock);
	fput(stream->filp);
}
