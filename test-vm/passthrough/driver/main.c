// SPDX-License-Identifier: GPL-2.0
/*
 * VFIO variant driver for the vsva test device: as vfio-pci, and it can be
 * migrated. It stops when its DMAs have ended, which a guest that does not
 * answer its page faults can prevent.
 */
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/pci.h>

#include "vsva.h"

#define VSVA_DEVICE_ID	0xa250

bool vsva_p2p;
module_param_named(p2p, vsva_p2p, bool, 0444);
MODULE_PARM_DESC(p2p, "offer the states with P2P in their names");

bool vsva_pre_copy;
module_param_named(pre_copy, vsva_pre_copy, bool, 0444);
MODULE_PARM_DESC(pre_copy, "offer the state PRE_COPY");

unsigned int vsva_stop_timeout_ms = 10000;
module_param_named(stop_timeout_ms, vsva_stop_timeout_ms, uint, 0644);
MODULE_PARM_DESC(stop_timeout_ms, "time for the DMAs in flight to end");

static int vsva_open_device(struct vfio_device *vdev)
{
	struct vsva_vf *vf = vsva_vf_of(vdev);
	int ret;

	ret = vfio_pci_core_enable(&vf->core);
	if (ret)
		return ret;
	if (IS_ERR_OR_NULL(vfio_pci_core_get_iomap(&vf->core, VSVA_BAR_REGS)) ||
	    IS_ERR_OR_NULL(vfio_pci_core_get_iomap(&vf->core, VSVA_BAR_PORTAL)) ||
	    IS_ERR_OR_NULL(vfio_pci_core_get_iomap(&vf->core, VSVA_BAR_HOST))) {
		vfio_pci_core_disable(&vf->core);
		return -EIO;
	}
	vsva_migration_reset_done(vf);
	vfio_pci_core_finish_enable(&vf->core);
	return 0;
}

static void vsva_close_device(struct vfio_device *vdev)
{
	vsva_migration_reset_done(vsva_vf_of(vdev));
	vfio_pci_core_close_device(vdev);
}

/* The registers that stop and restore the device are not the guest's. */
static bool is_hidden(u64 index)
{
	return index == VFIO_PCI_BAR4_REGION_INDEX;
}

static int vsva_get_region_info(struct vfio_device *vdev,
				struct vfio_region_info *info,
				struct vfio_info_cap *caps)
{
	if (!is_hidden(info->index))
		return vfio_pci_ioctl_get_region_info(vdev, info, caps);
	info->offset = VFIO_PCI_INDEX_TO_OFFSET(info->index);
	info->size = 0;
	info->flags = 0;
	return 0;
}

static ssize_t vsva_read(struct vfio_device *vdev, char __user *buf,
			 size_t count, loff_t *pos)
{
	struct vsva_vf *vf = vsva_vf_of(vdev);
	u64 index = VFIO_PCI_OFFSET_TO_INDEX(*pos);

	if (is_hidden(index))
		return -EINVAL;
	while (index == VSVA_BAR_PORTAL && READ_ONCE(vf->fail.read)) {
		if (msleep_interruptible(1))
			return -EINTR;
	}
	return vfio_pci_core_read(vdev, buf, count, pos);
}

static ssize_t vsva_write(struct vfio_device *vdev, const char __user *buf,
			  size_t count, loff_t *pos)
{
	if (is_hidden(VFIO_PCI_OFFSET_TO_INDEX(*pos)))
		return -EINVAL;
	return vfio_pci_core_write(vdev, buf, count, pos);
}

static int vsva_mmap(struct vfio_device *vdev, struct vm_area_struct *vma)
{
	if (is_hidden(vma->vm_pgoff >> (VFIO_PCI_OFFSET_SHIFT - PAGE_SHIFT)))
		return -EINVAL;
	return vfio_pci_core_mmap(vdev, vma);
}

static int vsva_init_device(struct vfio_device *vdev)
{
	vsva_migration_init(vsva_vf_of(vdev));
	vdev->migration_flags = vsva_migration_flags();
	vdev->mig_ops = &vsva_migration_ops;
	return vfio_pci_core_init_dev(vdev);
}

static const struct vfio_device_ops vsva_device_ops = {
	.name = "vsva-vfio-pci",
	.init = vsva_init_device,
	.release = vfio_pci_core_release_dev,
	.open_device = vsva_open_device,
	.close_device = vsva_close_device,
	.ioctl = vfio_pci_core_ioctl,
	.get_region_info_caps = vsva_get_region_info,
	.device_feature = vfio_pci_core_ioctl_feature,
	.read = vsva_read,
	.write = vsva_write,
	.mmap = vsva_mmap,
	.request = vfio_pci_core_request,
	.match = vfio_pci_core_match,
	.match_token_uuid = vfio_pci_core_match_token_uuid,
	.bind_iommufd = vfio_iommufd_physical_bind,
	.unbind_iommufd = vfio_iommufd_physical_unbind,
	.attach_ioas = vfio_iommufd_physical_attach_ioas,
	.detach_ioas = vfio_iommufd_physical_detach_ioas,
	.pasid_attach_ioas = vfio_iommufd_physical_pasid_attach_ioas,
	.pasid_detach_ioas = vfio_iommufd_physical_pasid_detach_ioas,
};

/* Beside what VFIO shows of the device there, and removed with it. */
static void vsva_debugfs_init(struct vsva_vf *vf)
{
	struct dentry *root = vf->core.vdev.debug_root;

	if (!IS_ENABLED(CONFIG_VFIO_DEBUGFS))
		return;
	debugfs_create_bool("fail_stop", 0600, root, &vf->fail.stop);
	debugfs_create_bool("fail_read", 0600, root, &vf->fail.read);
	debugfs_create_bool("fail_save", 0600, root, &vf->fail.save);
	debugfs_create_bool("fail_write", 0600, root, &vf->fail.write);
	debugfs_create_bool("fail_load", 0600, root, &vf->fail.load);
}

static int vsva_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct vsva_vf *vf;
	int ret;

	vf = vfio_alloc_device(vsva_vf, core.vdev, &pdev->dev,
			       &vsva_device_ops);
	if (IS_ERR(vf))
		return PTR_ERR(vf);
	dev_set_drvdata(&pdev->dev, &vf->core);
	ret = vfio_pci_core_register_device(&vf->core);
	if (ret) {
		vfio_put_device(&vf->core.vdev);
		return ret;
	}
	vsva_debugfs_init(vf);
	return 0;
}

static void vsva_remove(struct pci_dev *pdev)
{
	struct vfio_pci_core_device *core = dev_get_drvdata(&pdev->dev);

	vfio_pci_core_unregister_device(core);
	vfio_put_device(&core->vdev);
}

static void vsva_reset_done(struct pci_dev *pdev)
{
	struct vfio_pci_core_device *core = dev_get_drvdata(&pdev->dev);

	vsva_migration_reset_done(container_of(core, struct vsva_vf, core));
}

static const struct pci_error_handlers vsva_err_handlers = {
	.reset_done = vsva_reset_done,
	.error_detected = vfio_pci_core_aer_err_detected,
};

static const struct pci_device_id vsva_ids[] = {
	{ PCI_DRIVER_OVERRIDE_DEVICE_VFIO(PCI_VENDOR_ID_HUAWEI, VSVA_DEVICE_ID) },
	{ }
};
MODULE_DEVICE_TABLE(pci, vsva_ids);

static struct pci_driver vsva_driver = {
	.name = KBUILD_MODNAME,
	.id_table = vsva_ids,
	.probe = vsva_probe,
	.remove = vsva_remove,
	.err_handler = &vsva_err_handlers,
	.driver_managed_dma = true,
};
module_pci_driver(vsva_driver);

MODULE_DESCRIPTION("VFIO driver with migration for the vsva test device");
MODULE_LICENSE("GPL");
