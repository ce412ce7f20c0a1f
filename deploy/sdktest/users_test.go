package sdktest

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	vpn "github.com/huaweicloud/huaweicloud-sdk-go-v3/services/vpn/v5"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/services/vpn/v5/model"
)

// TestUsersGroupsAndPolicies runs the examples of groups, users and access
// policies that the API's reference works through, and the other operations on
// these, on a server in password mode.
func TestUsersGroupsAndPolicies(t *testing.T) {
	client := newClient(t, accessKey, secretKey)
	gateway := *ok(client.CreateP2cVgw(&model.CreateP2cVgwRequest{Body: &model.CreateP2cVgwRequestBody{
		P2cVpnGateway: &model.CreateP2cVgwRequestBodyContent{
			VpcId: vpcID, ConnectSubnet: subnetID, Eip: &model.CreateP2cRequestEip{Id: p(eip1ID)},
		},
	}}))(t).P2cVpnGateway.Id
	show := func() (*model.ShowP2cVgwResponse, error) {
		return client.ShowP2cVgw(&model.ShowP2cVgwRequest{P2cVgwId: gateway})
	}
	poll(t, "gateway", func() string { return *ok(show())(t).P2cVpnGateway.Status }, "ACTIVE")
	source := model.GetCreateServerRequestServerCertificateSourceEnum().SERVICE_SIGN
	server := *ok(client.CreateVpnServer(&model.CreateVpnServerRequest{P2cVgwId: gateway, Body: &model.CreateServerRequestBody{
		VpnServer: &model.CreateServerRequest{
			ClientCidr: "100.10.2.0/24", LocalSubnets: []string{"192.168.0.0/24", "192.168.1.0/24"},
			ServerCertificate: &model.CreateServerRequestServerCertificate{Source: &source},
		},
	}}))(t).VpnServer.Id
	poll(t, "server", func() string {
		servers := ok(client.ListVpnServersByVgw(&model.ListVpnServersByVgwRequest{P2cVgwId: gateway}))(t).VpnServers
		return *(*servers)[0].Status
	}, "ACTIVE")

	usersOfServer(t, client, server)

	ok(client.DeleteP2cVgw(&model.DeleteP2cVgwRequest{P2cVgwId: gateway}))(t)
	gone(t, "gateway", func() error {
		_, err := show()
		return err
	})
}

// usersOfServer works with the users, groups and policies of a server in password
// mode and leaves the server as it was.
func usersOfServer(t *testing.T, client *vpn.VpnClient, server string) {
	t.Helper()
	group := createUserGroup(t, client, server)
	user := createUser(t, client, server, group)
	policy := createAccessPolicy(t, client, server, group)
	membership(t, client, server, group, user)
	passwords(t, client, server, user)
	batchOfUsers(t, client, server)
	usersAtOnce(t, client, server)

	_, err := client.DeleteVpnUserGroup(&model.DeleteVpnUserGroupRequest{VpnServerId: server, GroupId: group})
	refused(t, err, http.StatusBadRequest, "VPN.1313", "Delete the access policy first.")
	ok(client.DeleteVpnAccessPolicy(&model.DeleteVpnAccessPolicyRequest{VpnServerId: server, PolicyId: policy}))(t)
	_, err = client.ShowVpnAccessPolicy(&model.ShowVpnAccessPolicyRequest{VpnServerId: server, PolicyId: policy})
	refused(t, err, http.StatusBadRequest, "VPN.1401", "The access policy does not exist.")
	ok(client.DeleteVpnUser(&model.DeleteVpnUserRequest{VpnServerId: server, UserId: user}))(t)
	_, err = client.ShowVpnUser(&model.ShowVpnUserRequest{VpnServerId: server, UserId: user})
	refused(t, err, http.StatusNotFound, "VPN.1303", "The user does not exist.")
	nextSecond()
	ok(client.DeleteVpnUserGroup(&model.DeleteVpnUserGroupRequest{VpnServerId: server, GroupId: group}))(t)
	_, err = client.ShowVpnUserGroup(&model.ShowVpnUserGroupRequest{VpnServerId: server, GroupId: group})
	refused(t, err, http.StatusNotFound, "VPN.1301", "The user group does not exist.")
}

// nextSecond lets a second begin. Signatures have its resolution, and each is
// good for one write.
func nextSecond() {
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
}

// createUserGroup begins the worked example of groups and users in the API's
// reference.
func createUserGroup(t *testing.T, client *vpn.VpnClient, server string) (id string) {
	t.Helper()
	created := ok(client.CreateVpnUserGroup(&model.CreateVpnUserGroupRequest{VpnServerId: server, Body: &model.CreateVpnUserGroupRequestBody{
		UserGroup: &model.CreateVpnUserGroupRequestBodyContent{Name: "user-group1", Description: p("用户组1")},
	}}))(t)
	if created.HttpStatusCode != http.StatusCreated {
		t.Errorf("create group answers %d", created.HttpStatusCode)
	}
	id = *created.UserGroup.Id
	shown := ok(client.ShowVpnUserGroup(&model.ShowVpnUserGroupRequest{VpnServerId: server, GroupId: id}))(t).UserGroup
	equal(t, "name", shown.Name, "user-group1")
	equal(t, "description", shown.Description, "用户组1")
	equal(t, "type", shown.Type, "Custom")
	equal(t, "user_number", shown.UserNumber, 0)
	list := ok(client.ListVpnUserGroups(&model.ListVpnUserGroupsRequest{VpnServerId: server}))(t)
	equal(t, "total_count", list.TotalCount, 2)
	equal(t, "type of the last", (*list.UserGroups)[1].Type, "Default")
	if list.PageInfo.NextMarker != nil {
		t.Error("a whole list has a next page")
	}
	changed := ok(client.UpdateVpnUserGroup(&model.UpdateVpnUserGroupRequest{VpnServerId: server, GroupId: id, Body: &model.UpdateVpnUserGroupRequestBody{
		UserGroup: &model.UpdateVpnUserGroupRequestBodyContent{Name: p("user-group1"), Description: p("test update")},
	}}))(t).UserGroup
	equal(t, "description", changed.Description, "test update")
	_, err := client.DeleteVpnUserGroup(&model.DeleteVpnUserGroupRequest{VpnServerId: server, GroupId: *(*list.UserGroups)[1].Id})
	refused(t, err, http.StatusBadRequest, "VPN.1316", "default user group")
	return id
}

func createUser(t *testing.T, client *vpn.VpnClient, server, group string) (id string) {
	t.Helper()
	const token = "5f0f6f5a-0c1d-4a52-9a3e-2b5a4f1c00a1"
	for range 2 { // the second one is given the answer of the first
		nextSecond()
		created := ok(client.CreateVpnUser(&model.CreateVpnUserRequest{VpnServerId: server, XClientToken: p(token), Body: &model.CreateVpnUserRequestBody{
			User: &model.CreateVpnUserRequestBodyContent{Name: "user001", Password: "Qwerasdf", Description: p("用户1"), UserGroupId: &group},
		}}))(t)
		if id != "" && *created.User.Id != id {
			t.Error("a repeated creation made another user")
		}
		id = *created.User.Id
	}
	shown := ok(client.ShowVpnUser(&model.ShowVpnUserRequest{VpnServerId: server, UserId: id}))(t).User
	equal(t, "name", shown.Name, "user001")
	equal(t, "description", shown.Description, "用户1")
	equal(t, "user_group_id", shown.UserGroupId, group)
	equal(t, "user_group_name", shown.UserGroupName, "user-group1")
	equal(t, "static_ip", shown.StaticIp, "disable")
	if shown.CreatedAt == nil {
		t.Error("created_at is absent")
	}
	changed := ok(client.UpdateVpnUser(&model.UpdateVpnUserRequest{VpnServerId: server, UserId: id, Body: &model.UpdateVpnUserRequestBody{
		User: &model.UpdateVpnUserRequestBodyContent{Description: p("用户描述-update")},
	}}))(t).User
	equal(t, "description", changed.Description, "用户描述-update")
	equal(t, "user_group_id", changed.UserGroupId, group)
	list := ok(client.ListVpnUsers(&model.ListVpnUsersRequest{VpnServerId: server, Limit: p(int32(10))}))(t)
	equal(t, "total_count", list.TotalCount, 1)
	equal(t, "id", (*list.Users)[0].Id, id)
	return id
}

// createAccessPolicy is the worked example of policies in the API's reference.
func createAccessPolicy(t *testing.T, client *vpn.VpnClient, server, group string) (id string) {
	t.Helper()
	id = *ok(client.CreateVpnAccessPolicy(&model.CreateVpnAccessPolicyRequest{VpnServerId: server, Body: &model.CreateVpnAccessPolicyRequestBody{
		AccessPolicy: &model.CreateVpnAccessPolicyRequestBodyContent{
			Name: "policy-001", UserGroupId: group, Description: p("访问策略1"), DestIpCidrs: []string{"172.16.0.0/24", "172.16.1.0/24"},
		},
	}}))(t).AccessPolicy.Id
	shown := ok(client.ShowVpnAccessPolicy(&model.ShowVpnAccessPolicyRequest{VpnServerId: server, PolicyId: id}))(t).AccessPolicy
	equal(t, "name", shown.Name, "policy-001")
	equal(t, "type", shown.Type, "Custom")
	equal(t, "user_group_name", shown.UserGroupName, "user-group1")
	equalList(t, "dest_ip_cidrs", shown.DestIpCidrs, "172.16.0.0/24", "172.16.1.0/24")
	changed := ok(client.UpdateVpnAccessPolicy(&model.UpdateVpnAccessPolicyRequest{VpnServerId: server, PolicyId: id, Body: &model.UpdateVpnAccessPolicyRequestBody{
		AccessPolicy: &model.UpdateVpnAccessPolicyRequestBodyContent{
			Name: p("policy-001"), UserGroupId: &group, Description: p(""), DestIpCidrs: &[]string{"192.168.0.0/16", "192.168.34.0/24"},
		},
	}}))(t).AccessPolicy
	equal(t, "description", changed.Description, "")
	equalList(t, "dest_ip_cidrs", changed.DestIpCidrs, "192.168.0.0/16", "192.168.34.0/24")
	list := ok(client.ListVpnAccessPolicies(&model.ListVpnAccessPoliciesRequest{VpnServerId: server}))(t)
	equal(t, "total_count", list.TotalCount, 2)
	_, err := client.DeleteVpnAccessPolicy(&model.DeleteVpnAccessPolicyRequest{VpnServerId: server, PolicyId: *(*list.AccessPolicies)[1].Id})
	refused(t, err, http.StatusBadRequest, "VPN.1406", "Default access policy")
	return id
}

func membership(t *testing.T, client *vpn.VpnClient, server, group, user string) {
	t.Helper()
	users := []model.OpVpnUser{{Id: user}}
	remove := func() (*model.RemoveVpnUsersFromGroupResponse, error) {
		return client.RemoveVpnUsersFromGroup(&model.RemoveVpnUsersFromGroupRequest{
			VpnServerId: server, GroupId: group, Body: &model.RemoveVpnUserFromGroupRequestBody{Users: users},
		})
	}
	ok(remove())(t)
	nextSecond()
	_, err := remove()
	refused(t, err, http.StatusBadRequest, "VPN.1305", "The user user001 is not in the current user group.")
	added := ok(client.AddVpnUsersToGroup(&model.AddVpnUsersToGroupRequest{
		VpnServerId: server, GroupId: group, Body: &model.AddVpnUserToGroupRequestBody{Users: users},
	}))(t)
	if added.HttpStatusCode != http.StatusCreated {
		t.Errorf("add-users answers %d", added.HttpStatusCode)
	}
	members := ok(client.ListVpnUsersInGroup(&model.ListVpnUsersInGroupRequest{VpnServerId: server, GroupId: group, Limit: p(int32(50))}))(t)
	equal(t, "total_count", members.TotalCount, 1)
	equal(t, "name", (*members.Users)[0].Name, "user001")
	if members.PageInfo.NextMarker != nil {
		t.Error("the last page has a next one")
	}
}

func passwords(t *testing.T, client *vpn.VpnClient, server, user string) {
	t.Helper()
	change := func(old, next string) (*model.UpdateVpnUserPasswordResponse, error) {
		return client.UpdateVpnUserPassword(&model.UpdateVpnUserPasswordRequest{
			VpnServerId: server, UserId: user, Body: &model.UpdateVpnUserPasswordRequestBody{OldPassword: old, NewPassword: next},
		})
	}
	_, err := change("guess", "stringst-new")
	refused(t, err, http.StatusBadRequest, "VPN.1312", "The old password is incorrect.")
	ok(change("Qwerasdf", "stringst-new"))(t)
	reset := func(next string) (*model.ResetVpnUserPasswordResponse, error) {
		return client.ResetVpnUserPassword(&model.ResetVpnUserPasswordRequest{
			VpnServerId: server, UserId: user, Body: &model.ResetVpnUserPasswordRequestBody{NewPassword: next},
		})
	}
	_, err = reset("Qwerasdf")
	refused(t, err, http.StatusBadRequest, "VPN.1311", "cannot be the same as the old one")
	ok(reset("Another one 1"))(t)
}

func batchOfUsers(t *testing.T, client *vpn.VpnClient, server string) {
	t.Helper()
	create := func(users ...model.CreateVpnUser) *[]model.InvalidVpnUser {
		t.Helper()
		return ok(client.BatchCreateVpnUsers(&model.BatchCreateVpnUsersRequest{
			VpnServerId: server, Body: &model.BatchCreateVpnUsersRequestBody{Users: users},
		}))(t).InvalidUsers
	}
	user := func(name, password, group string) model.CreateVpnUser {
		return model.CreateVpnUser{Name: name, Password: password, UserGroupName: &group}
	}
	invalid := create(user("user001", "Qwerasdf", "default"), user("user002", "short", "user-group1"), user("user003", "Qwerasdf", "default"))
	if invalid == nil || len(*invalid) != 2 {
		t.Fatalf("invalid users are %v, want two", invalid)
	}
	equal(t, "cause", (*invalid)[0].Cause, "Duplicate user name.")
	equal(t, "cause", (*invalid)[1].Cause, "Password length invalid.")
	if invalid = create(user("user002", "Qwerasdf", "user-group1"), user("user003", "Qwerasdf", "default")); invalid == nil || len(*invalid) != 0 {
		t.Fatalf("invalid users are %v, want none", invalid)
	}
	list := ok(client.ListVpnUsers(&model.ListVpnUsersRequest{VpnServerId: server, Limit: p(int32(2))}))(t)
	equal(t, "total_count", list.TotalCount, 3)
	equal(t, "user_group_name", (*list.Users)[0].UserGroupName, "default")
	equal(t, "user_group_name", (*list.Users)[1].UserGroupName, "user-group1")
	rest := ok(client.ListVpnUsers(&model.ListVpnUsersRequest{VpnServerId: server, Limit: p(int32(2)), Marker: list.PageInfo.NextMarker}))(t)
	if len(*rest.Users) != 1 || rest.PageInfo.NextMarker != nil {
		t.Errorf("the second page is %v", rest)
	}
	ok(client.BatchDeleteVpnUsers(&model.BatchDeleteVpnUsersRequest{VpnServerId: server, Body: &model.BatchDeleteVpnUsersRequestBody{
		Users: []model.OpVpnUser{{Id: *(*list.Users)[0].Id}, {Id: *(*list.Users)[1].Id}},
	}}))(t)
}

// usersAtOnce creates users, groups and policies as a provider does, several at
// the same time: none is refused.
func usersAtOnce(t *testing.T, client *vpn.VpnClient, server string) {
	t.Helper()
	const number = 5
	var wg sync.WaitGroup
	var users [number]string
	for i := range number {
		wg.Go(func() {
			user, err := client.CreateVpnUser(&model.CreateVpnUserRequest{VpnServerId: server, Body: &model.CreateVpnUserRequestBody{
				User: &model.CreateVpnUserRequestBodyContent{Name: fmt.Sprintf("at-once-%d", i), Password: "Qwerasdf"},
			}})
			if err != nil {
				t.Errorf("create user: %v", err)
				return
			}
			users[i] = *user.User.Id
			group, err := client.CreateVpnUserGroup(&model.CreateVpnUserGroupRequest{VpnServerId: server, Body: &model.CreateVpnUserGroupRequestBody{
				UserGroup: &model.CreateVpnUserGroupRequestBodyContent{Name: fmt.Sprintf("at-once-%d", i)},
			}})
			if err != nil {
				t.Errorf("create group: %v", err)
				return
			}
			_, err = client.AddVpnUsersToGroup(&model.AddVpnUsersToGroupRequest{
				VpnServerId: server, GroupId: *group.UserGroup.Id, Body: &model.AddVpnUserToGroupRequestBody{Users: []model.OpVpnUser{{Id: users[i]}}},
			})
			if err != nil {
				t.Errorf("add users: %v", err)
			}
			// A group can go while it has users.
			if _, err := client.DeleteVpnUserGroup(&model.DeleteVpnUserGroupRequest{VpnServerId: server, GroupId: *group.UserGroup.Id}); err != nil {
				t.Errorf("delete group: %v", err)
			}
		})
	}
	wg.Wait()
	for _, user := range users {
		if user == "" {
			continue
		}
		shown := ok(client.ShowVpnUser(&model.ShowVpnUserRequest{VpnServerId: server, UserId: user}))(t).User
		equal(t, "user_group_id", shown.UserGroupId, "")
		ok(client.DeleteVpnUser(&model.DeleteVpnUserRequest{VpnServerId: server, UserId: user}))(t)
	}
}
