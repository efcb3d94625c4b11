package main

import (
	"regexp"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// ovfManager takes what vCenter takes and the simulator's own does not.
type ovfManager struct{ *simulator.OvfManager }

var (
	item       = regexp.MustCompile(`(?s)<(\w+:)?Item\b.*?</(\w+:)?Item>`)
	optional   = regexp.MustCompile(`^<[^>]*\brequired="false"`)
	serial     = regexp.MustCompile(`ResourceType>\s*21\s*<`)
	controller = regexp.MustCompile(`ResourceType>\s*(6|20)\s*<`)
	subtype    = regexp.MustCompile(`(ResourceSubType>)\s*([^<\s]+)\s*<`)
)

// CreateImportSpec shows the simulator SCSI controllers in the place of SATA and NVMe ones, and puts these in again.
func (m *ovfManager) CreateImportSpec(ctx *simulator.Context, req *types.CreateImportSpec) soap.HasFault {
	var kinds []string // of each controller of type 6 and 20, in the descriptor's order
	req.OvfDescriptor = item.ReplaceAllStringFunc(req.OvfDescriptor, func(text string) string {
		if serial.MatchString(text) && optional.MatchString(text) {
			return ""
		}
		found := controller.FindStringSubmatch(text)
		if found == nil {
			return text
		}
		kind := ""
		if model := subtype.FindStringSubmatch(text); found[1] == "20" && model != nil {
			kind = map[string]string{
				"ahci": "ahci", "vmware.sata.ahci": "ahci", "vmware.nvme.controller": "nvme",
			}[strings.ToLower(model[2])]
		}
		if kind == "" {
			if found[1] == "6" {
				kinds = append(kinds, kind)
			}
			return text // as it is; of type 20 the simulator says that it does not know it
		}
		kinds = append(kinds, kind)
		text = subtype.ReplaceAllString(text, "${1}lsilogic<")
		return controller.ReplaceAllString(text, "ResourceType>6<")
	})
	answer := m.OvfManager.CreateImportSpec(ctx, req)
	if body, ok := answer.(*methods.CreateImportSpecBody); ok && body.Res != nil {
		if spec, ok := body.Res.Returnval.ImportSpec.(*types.VirtualMachineImportSpec); ok {
			restore(spec, kinds)
		}
	}
	return answer
}

func restore(spec *types.VirtualMachineImportSpec, kinds []string) {
	n := 0
	for _, change := range spec.ConfigSpec.DeviceChange {
		device := change.GetVirtualDeviceConfigSpec()
		scsi, ok := device.Device.(types.BaseVirtualSCSIController)
		if !ok || n >= len(kinds) {
			continue
		}
		common := scsi.GetVirtualSCSIController().VirtualController
		switch kinds[n] {
		case "ahci":
			device.Device = &types.VirtualAHCIController{
				VirtualSATAController: types.VirtualSATAController{VirtualController: common},
			}
		case "nvme":
			device.Device = &types.VirtualNVMEController{VirtualController: common}
		}
		n++
	}
}
